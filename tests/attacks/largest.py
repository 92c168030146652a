"""The largest calls that are served, several at a time."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.attacks.posting import PROTOBUF, call, post
from tests.attacks.readers import message_of

_N_CLIENTS = 3
_SMALL = {"atomic_numbers": [18] * 2, "positions": [[0.0, 0.0, 0.0], [5.123456789, 0.0, 0.0]]}


def at_once(ask, victim, body, *arguments):
    with ThreadPoolExecutor(_N_CLIENTS) as pool:
        outcomes = list(pool.map(lambda _: ask(victim, body, *arguments), range(_N_CLIENTS)))
    return "; ".join(outcomes)


def many_over_json(victim):
    return at_once(post, victim, json.dumps({"systems": [_SMALL] * 2000}).encode())


def many_over_protobuf(victim):
    return at_once(post, victim, message_of(2000, 2), PROTOBUF)


def many_over_grpc(victim):
    return at_once(call, victim, message_of(2000, 2))


def atoms_over_json(victim):
    positions = np.round(np.random.default_rng(0).uniform(0, 100, (2000, 3)), 12).tolist()
    system = {"atomic_numbers": [18] * 2000, "positions": positions}
    body = json.dumps({"systems": [system] * 50, "outputs": ["energy"]}).encode()
    return at_once(post, victim, body)


ATTACKS = {
    "3 calls of 2000 systems at once, JSON": many_over_json,
    "3 calls of 2000 systems at once, protobuf": many_over_protobuf,
    "3 calls of 2000 systems at once, gRPC": many_over_grpc,
    "3 calls of 100,000 atoms at once, JSON": atoms_over_json,
}
