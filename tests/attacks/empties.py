"""Messages of the smallest parts there are, each of which becomes an object."""

from functools import partial

from tests.attacks.posting import PROTOBUF, call, post, proto_empty, stream_turns


def over_protobuf(n_mb, victim):
    return post(victim, proto_empty(n_mb * 10**6), PROTOBUF)


def over_grpc(n_mb, victim):
    return call(victim, proto_empty(n_mb * 10**6))


def over_a_stream(n_mb, victim):
    return call(victim, stream_turns(n_mb * 10**6), "PredictStream")


ATTACKS = {
    "57 MB of empty systems, gRPC": partial(over_grpc, 57),
    "15 MB of empty systems, gRPC": partial(over_grpc, 15),
    "15 MB of empty systems, protobuf": partial(over_protobuf, 15),
    "15 MB of systems and moves in turn, gRPC stream": partial(over_a_stream, 15),
}
