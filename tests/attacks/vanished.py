"""Clients that ask for much and go away before they are answered."""

import time

import grpc

from tests.attacks.readers import message_of

_N_SYSTEMS, _N_ATOMS = 400, 400
_HEAD = (
    "POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n"
)


def over_rest(victim):
    body = message_of(_N_SYSTEMS, _N_ATOMS)
    with victim.connect() as connection:
        connection.sendall(_HEAD.format(len(body)).encode() + body)
        n_before = _begun(victim)
    return _after(victim, n_before)


def over_grpc(victim):
    with grpc.insecure_channel(f"127.0.0.1:{victim.grpc_port}") as channel:
        ask = channel.unary_unary("/twinforce.v1.Inference/Predict")
        reply = ask.future(message_of(_N_SYSTEMS, _N_ATOMS))
        n_before = _begun(victim)
        reply.cancel()
    return _after(victim, n_before)


def _begun(victim):
    """Return the number of batches that were computed when the first one was."""
    while not (n_batches := victim.metric("twinforce_compute_seconds_count")):
        time.sleep(0.001)
    return n_batches


def _after(victim, n_before):
    while victim.metric("twinforce_queue_requests"):
        time.sleep(0.01)
    time.sleep(0.5)
    n_batches = victim.metric("twinforce_compute_seconds_count") - n_before
    return f"{n_batches:.0f} batches computed after it went"


ATTACKS = {
    "a client over REST that vanishes": over_rest,
    "a client over gRPC that vanishes": over_grpc,
}
