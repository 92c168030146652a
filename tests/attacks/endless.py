"""Headers, URLs and bodies that never end."""

import time
from functools import partial

_MOST_BYTES = 100_000_000
_MOST_S = 20.0
_POST = b"POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


def endless(first, more, victim):
    """Send the same again and again until the service objects."""
    part = more * (2**18 // len(more))
    n_sent, begin, answer = 0, time.monotonic(), b""
    with victim.connect() as connection:
        try:
            connection.sendall(first)
            while n_sent < _MOST_BYTES and time.monotonic() - begin < _MOST_S:
                connection.sendall(part)
                n_sent += len(part)
                if answer := _answer(connection):
                    break
        except OSError:
            answer = answer or _answer(connection) or b"reset"
    seconds = time.monotonic() - begin
    outcome = answer[9:12].decode() if answer.startswith(b"HTTP") else answer.decode() or "taken"
    return f"{outcome} after {n_sent / 1e6:.1f} MB and {seconds:.1f} s"


def _answer(connection):
    connection.setblocking(False)
    try:
        return connection.recv(4096) or b"closed"
    except BlockingIOError:
        return b""
    except OSError:
        return b"reset"
    finally:
        connection.settimeout(10.0)


ATTACKS = {
    "an endless header": partial(endless, _POST + b"X-Long: ", b"a"),
    "endless headers": partial(endless, _POST, b"X-More: a\r\n"),
    "an endless URL": partial(endless, b"GET /", b"a"),
    "endless trailers": partial(endless, _CHUNKED + b"0\r\n", b"X-More: a\r\n"),
    "chunks of one byte": partial(endless, _CHUNKED, b"1\r\n{\r\n"),
    "requests without waiting for replies": partial(endless, b"", b"GET / HTTP/1.1\r\n\r\n"),
}
