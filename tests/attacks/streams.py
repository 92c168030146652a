"""Streams that are opened and never used again."""

import asyncio
from collections import Counter

import grpc

from tests.attacks.posting import proto_systems

_N_STREAMS, _N_CONNECTIONS = 1000, 10
_METHOD = "/twinforce.v1.Inference/PredictStream"


def idle(victim):
    """Take one step in each of 1000 streams, and leave them open."""
    before = victim.memory_mb("VmRSS")
    outcomes, after = asyncio.run(_idle(victim))
    kib = 1024 * (after - before) / _N_STREAMS
    return f"{dict(Counter(outcomes))}, {kib:.0f} KiB of memory per stream"


async def _idle(victim):
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"127.0.0.1:{victim.grpc_port}"
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(_N_CONNECTIONS)]
    message = b"\x0a\x02lj\x22" + proto_systems(40)[5:]
    calls, outcomes = [], []
    for i in range(_N_STREAMS):
        call = channels[i % _N_CONNECTIONS].stream_stream(_METHOD)()
        calls.append(call)
        try:
            await call.write(message)
            outcomes.append("answered" if len(await call.read()) > 20 else "closed")
        except grpc.aio.AioRpcError as error:
            outcomes.append(error.code().name)
    after = victim.memory_mb("VmRSS")
    for channel in channels:
        await channel.close()
    return outcomes, after


ATTACKS = {"1000 idle streams": idle}
