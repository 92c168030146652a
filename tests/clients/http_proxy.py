"""An HTTP proxy that resolves names itself: it leads every host to a port of this machine."""

import contextlib
import socket
import threading

from tests.clients.proxy import CountingProxy


class NamingProxy(CountingProxy):
    """A proxy that understands CONNECT and requests for whole URLs.

    Args:
        port: Port of this machine that every host stands for; None refuses to connect.
        authorization: Value of `Proxy-Authorization` that it insists on.
        status: Status line of its refusals.
    """

    def __init__(self, port, authorization=None, status="502 Bad Gateway"):
        self.requests = []
        self._authorization = authorization
        self._status = status
        super().__init__(port)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                threading.Thread(target=self._serve, args=[near], daemon=True).start()

    def _serve(self, near):
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(65536) or self._end(near)
            head, _, rest = head.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method, target, _ = lines[0].split(" ")
            self.requests.append((method, target))
            fields = (line.partition(":") for line in lines[1:])
            if status := self._refusal({name.lower(): value.strip() for name, _, value in fields}):
                near.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                self._end(near)
            far = socket.create_connection(("127.0.0.1", self.target))
            self._sockets.append(far)
            if method == "CONNECT":
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                far.sendall(rest)
            else:
                path = "/" + target.split("/", 3)[3]
                lines[0] = f"{method} {path} HTTP/1.1"
                far.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + rest)
            self._start(self._forward_requests, near, far)
            self._start(self._forward_replies, far, near, float("inf"))

    def _refusal(self, headers):
        if self.target is None:
            return self._status
        is_welcome = self._authorization in (None, headers.get("proxy-authorization"))
        return None if is_welcome else "407 Proxy Authentication Required"

    def _end(self, near):
        near.close()
        raise OSError("closed")
