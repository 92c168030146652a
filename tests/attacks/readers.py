"""Clients that ask for large replies and do not read them."""

import time

import numpy as np

from twinforce_proto import System
from twinforce_proto.codec.messages import system_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

_N_READERS = 10
_N_SYSTEMS, _N_ATOMS = 50, 1000
_BUFFER = 4096  # of the system of the reader
_WATCHED_S = 25.0


def message_of(n_systems, n_atoms):
    """Return a message of so many systems, each of so many atoms."""
    grid = np.stack(np.meshgrid(*[np.arange(13.0)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    system = system_to_proto(System(np.full(n_atoms, 18), 10.0 * grid))
    outputs = [pb.OUTPUT_CONSERVATIVE_FORCES, pb.OUTPUT_ATOM_ENERGIES]
    message = pb.PredictRequest(model="lj", systems=[system] * n_systems, outputs=outputs)
    return message.SerializeToString()


def over_rest(victim):
    body = message_of(_N_SYSTEMS, _N_ATOMS)
    head = (
        "POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connections = [victim.connect(receive_buffer=_BUFFER) for _ in range(_N_READERS)]
    for connection in connections:
        connection.sendall(head.encode() + body)
    time.sleep(_WATCHED_S)
    held = victim.unsent_mb()
    n_whole = sum(_read(each) for each in connections)
    text = f"{held:.1f} MB of replies in sockets after {_WATCHED_S:.0f} s"
    return f"{text}, {n_whole} of {_N_READERS} connections open"


def _read(connection):
    with connection:
        n_bytes = 0
        try:
            while n_bytes < 24 * _N_SYSTEMS * _N_ATOMS:
                if not (part := connection.recv(2**20)):
                    return False
                n_bytes += len(part)
        except OSError:
            return False
        return True


ATTACKS = {"10 clients over REST that do not read their replies": over_rest}
