"""Large requests of attackers, over bare sockets and gRPC."""

import contextlib
import itertools
import json
import re
import time

import grpc

PATIENCE = 60.0
PROTOBUF = "application/x-protobuf"
_METHOD = "/twinforce.v1.Inference/{}"


def post(victim, body, media_type="application/json", path="predict"):
    """Post a body, and return the outcome as text."""
    begin = time.perf_counter()
    head = (
        f"POST /v1/models/lj/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reply = b""
    with contextlib.suppress(TimeoutError, ConnectionError), victim.connect() as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(head.encode())
        connection.sendall(body)
        while not _is_whole(reply):
            if not (part := connection.recv(2**20)):
                break
            reply += part
    seconds = time.perf_counter() - begin
    if not reply:
        return f"no reply in {seconds:.1f} s"
    return f"{reply[9:12].decode()} in {seconds:.2f} s{_length(reply)}"


def call(victim, message, method="Predict"):
    """Send a message over gRPC, and return the outcome as text."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{victim.grpc_port}", options) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        begin = time.perf_counter()
        if method == "PredictStream":
            replies = channel.stream_stream(_METHOD.format(method))(
                itertools.repeat(message, 1), timeout=PATIENCE
            )
            outcome = _status(lambda: f"reply of {len(b''.join(replies))} bytes")
        else:
            ask = channel.unary_unary(_METHOD.format(method))
            outcome = _status(lambda: f"OK, {len(ask(message, timeout=PATIENCE))} bytes")
        return f"{outcome} in {time.perf_counter() - begin:.2f} s"


def _status(work):
    try:
        return work()
    except grpc.RpcError as error:
        return f"{error.code().name}{_long(len(error.details() or ''))}"


def _is_whole(reply):
    head, separator, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(separator) and length is not None and len(body) >= int(length[1])


def _length(reply):
    return _long(len(reply))


def _long(n_bytes):
    return f", {n_bytes / 1e6:.0f} MB of message" if n_bytes > 1e6 else ""


def json_systems(n_bytes):
    """Return a JSON body of one-atom systems."""
    system = b'{"atomic_numbers":[18],"positions":[[0,0,0]]}'
    return b'{"systems":[' + b",".join([system] * (n_bytes // (len(system) + 1))) + b"]}"


def json_atoms(n_bytes):
    """Return a JSON body of one system."""
    n_atoms = n_bytes // 11
    numbers = b",".join([b"18"] * n_atoms)
    positions = b",".join([b"[0,0,0]"] * n_atoms)
    return b'{"systems":[{"atomic_numbers":[%b],"positions":[%b]}]}' % (numbers, positions)


def json_output(n_bytes):
    """Return a JSON body with an output of a long name."""
    system = {"atomic_numbers": [18], "positions": [[0, 0, 0]]}
    return json.dumps({"systems": [system], "outputs": ["o" * n_bytes]}).encode()


def proto_systems(n_bytes):
    """Return a message of one-atom systems."""
    positions = b"\x12\x1a\x12\x18" + bytes(24)
    system = b"\x0a\x04\x12\x00\x00\x00" + positions
    return b"\x0a\x02lj" + (b"\x12" + bytes([len(system)]) + system) * (
        n_bytes // (len(system) + 2)
    )


def proto_empty(n_bytes):
    """Return a message of empty systems."""
    return b"\x0a\x02lj" + b"\x12\x00" * (n_bytes // 2)


def stream_turns(n_bytes):
    """Return a message of a stream whose input is a system, a move, a system, ..."""
    return b"\x0a\x02lj" + b"\x22\x00\x2a\x00" * (n_bytes // 4)
