"""A gRPC stream of bytes without any work: a lower bound on the cost of a remote step.

    python -m bench.peers.grpc_echo

The command listens on a free port, prints it, and answers each message of a stream with the first
message of that stream.
"""

import asyncio
from collections.abc import AsyncIterator
from queue import SimpleQueue
from typing import Any

import grpc

METHOD = "/bench.Echo/Stream"


class EchoHandler(grpc.GenericRpcHandler):
    """A handler that answers every stream with bytes."""

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call."""
        del handler_call_details
        return grpc.stream_stream_rpc_method_handler(self.answer)

    async def answer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each message with the first one."""
        del context
        reply: bytes | None = None
        async for request in requests:
            reply = reply or request
            yield reply


class EchoClient:
    """A client of the echo, blocking and with asyncio.

    Args:
        port: Port of the echo on this machine.
        n_reply: Number of bytes in each reply.
        loop: Event loop of the asyncio stream; it must not be running.
    """

    def __init__(self, port: int, n_reply: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        address = f"127.0.0.1:{port}"
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._replies = grpc.insecure_channel(address).stream_stream(METHOD)(
            iter(self._queue.get, None)
        )
        self.step(bytes(n_reply))
        self._call: Any = self._loop.run_until_complete(self._open(address))
        self.step_async(bytes(n_reply))

    def step(self, message: bytes) -> bytes:
        """Send a message and return the reply."""
        self._queue.put(message)
        reply: bytes = next(self._replies)
        return reply

    def step_async(self, message: bytes) -> bytes:
        """Send a message and return the reply, with asyncio."""
        return self._loop.run_until_complete(self._step_async(message))

    async def _open(self, address: str) -> Any:
        return grpc.aio.insecure_channel(address).stream_stream(METHOD)()

    async def _step_async(self, message: bytes) -> bytes:
        await self._call.write(message)
        reply: bytes = await self._call.read()
        return reply


async def main() -> None:
    """Serve until the process is terminated."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((EchoHandler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
