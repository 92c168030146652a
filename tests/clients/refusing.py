"""Stand-ins for a transport that refuses calls before the service sees them."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.clients.proxy import CountingProxy


class RefusingServer:
    """A gRPC server that ends the first calls with a status of its own and relays the others.

    Args:
        port: Port of the service.
        status: Status and details of each refused call, in order.
    """

    def __init__(self, port, refusals):
        self._refusals = list(refusals)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers([self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.n_calls = 0
        self._server.start()

    def service(self, details):
        """Return the handler of a call."""

        def relay(requests, context):
            self.n_calls += 1
            if self._refusals:
                context.abort(*self._refusals.pop(0))
            yield from self._channel.stream_stream(details.method)(requests)

        return grpc.stream_stream_rpc_method_handler(relay)

    def refuse(self, *refusals):
        """Refuse as many calls from now on."""
        self._refusals.extend(refusals)

    def close(self):
        self._server.stop(0).wait()
        self._channel.close()


class RefusingProxy(CountingProxy):
    """An HTTP proxy that answers the first connections itself and forwards the others.

    Args:
        port: Port of the service.
        refusals: Status line and further header lines of each refusal, in order.
    """

    def __init__(self, port, refusals):
        self._refusals = list(refusals)
        super().__init__(port)

    def refuse(self, *refusals):
        """Break all connections and answer as many new ones."""
        self._refusals.extend(refusals)
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.n_connections += 1
                if self._refusals:
                    near.recv(65536)
                    answer = f"HTTP/1.1 {self._refusals.pop(0)}\r\nContent-Length: 0\r\n\r\n"
                    near.sendall(answer.encode())
                    near.close()
                else:
                    self._connect(near)
