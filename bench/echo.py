"""The least that a remote step can cost: a bare grpc.aio stream of bytes.

    python -m bench.echo

listens on a free port, prints it, and answers each message with as many bytes as the first message
of the stream had: what a service would do that had nothing to do.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

METHOD = "/bench.Echo/Stream"


class Echo(grpc.GenericRpcHandler):
    """Answers every stream with bytes."""

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call."""
        del handler_call_details
        return grpc.stream_stream_rpc_method_handler(self.answer)

    async def answer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each message with the first one."""
        del context
        reply: bytes | None = None
        async for request in requests:
            reply = reply or request
            yield reply


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
