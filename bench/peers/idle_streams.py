"""Open streams that send nothing, as walkers leave them while they compute something else.

    python -m bench.peers.idle_streams ADDRESS STREAMS

For a line "open", the command opens STREAMS streams, each over a separate connection, takes one
step with each and prints "open". For a line "close", it closes the open streams and prints
"closed". It ends when its input ends.
"""

import asyncio
import resource
import sys
from contextlib import AsyncExitStack
from typing import Any

import grpc

from bench.runner.closed_loop import OUTPUTS
from bench.runner.systems import gas
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

# Without this option, channels to the same address share a connection.
_SEPARATE = (("grpc.use_local_subchannel_pool", 1),)
N_ATOMS = 8
# Number of streams that are opened concurrently.
_N_CONCURRENT = 50


async def opened(address: str, first: pb.StreamRequest, stack: AsyncExitStack) -> Any:
    """Return a stream that has taken one step."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_SEPARATE))
    call = InferenceStub(channel).PredictStream()
    await call.write(first)
    reply = await call.read()
    if reply is grpc.aio.EOF or reply.HasField("error"):
        raise RuntimeError(f"{address} answered {reply}")
    return call


async def hold(address: str, n_streams: int) -> None:
    """Open and close streams as the lines on standard input request."""
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
    """Open all streams, in groups; the stack closes them."""
    while n_streams > 0:
        n_new = min(_N_CONCURRENT, n_streams)
        calls = await asyncio.gather(*(opened(address, first, stack) for _ in range(n_new)))
        for call in calls:
            stack.callback(call.cancel)
        n_streams -= n_new


def main() -> None:
    """Hold streams until the input ends."""
    address, n_streams = sys.argv[1], int(sys.argv[2])
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(hold(address, n_streams))


if __name__ == "__main__":
    main()
