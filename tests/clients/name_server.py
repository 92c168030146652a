"""A stand-in for the resolver of the system, which knows names of its own."""

import socket

_GETADDRINFO = socket.getaddrinfo


class NameServer:
    """The names that a test gives to addresses; all others are looked up as ever.

    Attributes:
        addresses: Addresses of each name, or the error of its look-up, or a function that returns
            either.
        n_asked: Number of look-ups of each name.
    """

    def __init__(self, monkeypatch):
        self.addresses = {}
        self.n_asked = {}
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host, port, *args, **options):
        if host not in self.addresses:
            return _GETADDRINFO(host, port, *args, **options)
        self.n_asked[host] = self.n_asked.get(host, 0) + 1
        found = self.addresses[host]
        found = found() if callable(found) else found
        if isinstance(found, Exception):
            raise found
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port))
            for each in found
        ]
