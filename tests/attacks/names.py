"""Long names, which errors repeat, and many of them."""

from functools import partial

from tests.attacks.posting import json_output, post


def an_output(n_mb, victim):
    return post(victim, json_output(n_mb * 10**6))


def many_keys(victim):
    return post(victim, b"{%b}" % b",".join(b'"a%d":1' % i for i in range(1_200_000)))


def many_outputs(victim):
    return post(victim, b'{"systems":[{}],"outputs":[%b]}' % b",".join([b'"a"'] * 3_700_000))


ATTACKS = {
    "an output name of 60 MB": partial(an_output, 60),
    "an output name of 15 MB": partial(an_output, 15),
    "15 MB of unknown keys": many_keys,
    "15 MB of output names": many_outputs,
}
