"""Walkers that think: streams that are open and ask nothing.

    python -m bench.idle_streams ADDRESS STREAMS

For a line "open", opens that many streams, each over a connection of its own, lets each take one
step and prints "open"; for "close", closes those that are open and prints "closed". Ends when its
input does.
"""

import asyncio
import resource
import sys
from contextlib import AsyncExitStack
from typing import Any

import grpc

from bench.systems import gas
from bench.walking import OUTPUTS
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

# Without this, channels to one address share a connection.
_ALONE = (("grpc.use_local_subchannel_pool", 1),)
N_ATOMS = 8
# How many open at a time.
_AT_ONCE = 50


async def opened(address: str, first: pb.StreamRequest, stack: AsyncExitStack) -> Any:
    """Return a stream that has taken one step, and waits."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_ALONE))
    call = InferenceStub(channel).PredictStream()
    await call.write(first)
    reply = await call.read()
    if reply is grpc.aio.EOF or reply.HasField("error"):
        raise RuntimeError(f"{address} answered {reply}")
    return call


async def hold(address: str, n_streams: int) -> None:
    """Open and close as the lines say."""
    first = StreamEncoder("toy").encode(gas(N_ATOMS), frozenset(OUTPUTS))
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "open":
            async with AsyncExitStack() as stack:
                await open_all(address, first, n_streams, stack)
                print("open", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        print("closed", flush=True)


async def open_all(
    address: str, first: pb.StreamRequest, n_streams: int, stack: AsyncExitStack
) -> None:
    """Open streams, some at a time; they end with the stack."""
    while n_streams > 0:
        more = min(_AT_ONCE, n_streams)
        calls = await asyncio.gather(*(opened(address, first, stack) for _ in range(more)))
        for call in calls:
            stack.callback(call.cancel)
        n_streams -= more


def main() -> None:
    """Hold streams until the input ends."""
    address, n_streams = sys.argv[1], int(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(hold(address, n_streams))


if __name__ == "__main__":
    main()
