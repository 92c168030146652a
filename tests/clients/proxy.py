"""A TCP proxy that counts connections and bytes and can cut connections or silence them."""

import contextlib
import math
import socket
import threading


class CountingProxy:
    """Forwards every connection to `port` of this machine.

    Args:
        port: Port that connections are forwarded to; None means that they are closed immediately.
        cut_after: Number of bytes of replies after which the first, the second, ... connection
            is cut; later connections are not cut. Such a cut does not depend on how fast either
            side is.
        place: Host and port to listen on; port 0 means any.
        silent_after: Number of bytes of replies after which the first, the second, ... connection
            falls silent, as by `silence`.
    """

    def __init__(self, port, cut_after=(), place=("127.0.0.1", 0), silent_after=()):
        self.target = port
        self._limits = iter(cut_after)
        self._quotas = iter(silent_after)
        self._listener = socket.create_server(place)
        self._sockets = []
        self._silent = set()
        self._is_flowing = threading.Event()
        self._is_flowing.set()
        self.n_bytes_sent = 0
        self.n_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return self._listener.getsockname()[1]

    def cut(self):
        """Break all connections; new ones are accepted."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def silence(self):
        """Drop whatever is sent over the present connections from now on, and keep them open."""
        self._silent.update(self._sockets)

    def hold(self):
        """Hold back all replies from now on."""
        self._is_flowing.clear()

    def resume(self):
        """Let it through."""
        self._is_flowing.set()

    def close(self):
        self.resume()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.n_connections += 1
                if self.target is None:
                    near.close()
                else:
                    self._connect(near)

    def _connect(self, near):
        far = socket.create_connection(("127.0.0.1", self.target))
        self._sockets += [near, far]
        self._start(self._forward_requests, near, far)
        limit, quota = next(self._limits, math.inf), next(self._quotas, math.inf)
        self._start(self._forward_replies, far, near, limit, quota)

    @staticmethod
    def _start(forward, *arguments):
        threading.Thread(target=forward, args=arguments, daemon=True).start()

    def _forward_requests(self, near, far):
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                self.n_bytes_sent += len(data)
                if near not in self._silent:
                    far.sendall(data)
        _shut(near, far)

    def _forward_replies(self, far, near, n_left, n_loud=math.inf):
        with contextlib.suppress(OSError):
            while n_left > 0 and (data := far.recv(min(65536, n_left))):
                n_left -= len(data)
                self._is_flowing.wait()
                if near not in self._silent:
                    near.sendall(data[: min(len(data), n_loud)])
                n_loud -= len(data)
                if n_loud <= 0:
                    self._silent.update((near, far))
        _shut(near, far)


def _shut(*sockets):
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
