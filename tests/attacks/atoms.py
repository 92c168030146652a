"""Systems of far more atoms than any that is served."""

from functools import partial

from tests.attacks.posting import json_atoms, post


def over_json(n_mb, victim):
    return post(victim, json_atoms(n_mb * 10**6))


ATTACKS = {
    "53 MB of one system, JSON": partial(over_json, 53),
    "15 MB of one system, JSON": partial(over_json, 15),
}
