"""Calls of far more systems than are served at once."""

from functools import partial

from tests.attacks.posting import PROTOBUF, call, json_systems, post, proto_systems


def over_json(n_mb, victim):
    return post(victim, json_systems(n_mb * 10**6))


def over_protobuf(n_mb, victim):
    return post(victim, proto_systems(n_mb * 10**6), PROTOBUF)


def over_grpc(n_mb, victim):
    return call(victim, proto_systems(n_mb * 10**6))


ATTACKS = {
    "60 MB of one-atom systems, JSON": partial(over_json, 60),
    "60 MB of one-atom systems, protobuf": partial(over_protobuf, 60),
    "60 MB of one-atom systems, gRPC": partial(over_grpc, 60),
    "15 MB of one-atom systems, JSON": partial(over_json, 15),
    "15 MB of one-atom systems, protobuf": partial(over_protobuf, 15),
    "15 MB of one-atom systems, gRPC": partial(over_grpc, 15),
}
