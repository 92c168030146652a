"""Tests of bursts of calls, and of calls that arrive while the service stops."""

import asyncio
import json
import time
from collections import Counter
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import grpc
import pytest

from tests.conftest import free_ports
from tests.potentials import Gated, Soft, loaded
from tests.service.transports.rest_bodies import json_body, protobuf_body
from tests.systems import molecule
from twinforce_proto import OverloadedError, UnavailableError
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto, system_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.main import serve

PATIENCE = 60.0
# The core of gRPC queues at most 3000 calls by default, and drops many from 1000 on.
N_CALLS = 1600
MESSAGE = pb.PredictRequest.FromString(protobuf_body(molecule(2), outputs=["energy"], model="soft"))


@asynccontextmanager
async def served(potential, **settings):
    """Serve in this event loop, so that a test can hold it up; yield the addresses and `stop`."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    models = {"soft": loaded(potential)}
    serving = asyncio.create_task(
        serve(free_ports(**settings), stop, ready.set_result, lambda: models)
    )
    try:
        yield await ready, stop
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def stubs(url, n_channels):
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = url.removeprefix("grpc://")
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(n_channels)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    yield [InferenceStub(channel) for channel in channels]
    for channel in channels:
        await channel.close()


def outcome_of(error):
    """Return the name of the status of a failed call and the error that the service described."""
    described = dict(error.trailing_metadata() or ()).get(ERROR_METADATA_KEY)
    status = error.code().name
    return status, described and error_from_proto(pb.Error.FromString(described))


async def predict(stub):
    try:
        await stub.Predict(MESSAGE)
    except grpc.aio.AioRpcError as error:
        return outcome_of(error)
    return "OK", None


async def step(stub):
    """Take one step of a stream."""
    call = stub.PredictStream(wait_for_ready=False)
    try:
        await call.write(pb.StreamRequest(model="soft", system=system_to_proto(molecule(2))))
        reply = await call.read()
        await call.done_writing()
    except grpc.aio.AioRpcError as error:
        return outcome_of(error)
    except asyncio.InvalidStateError:  # the call ended before the message was written
        return (await call.code()).name, None
    if reply is grpc.aio.EOF:
        return (await call.code()).name, None
    return "OK" if reply.WhichOneof("outcome") == "prediction" else reply.error.type, None


async def burst(call, stubs, n_calls):
    """Start all calls, and hold up the server until they have arrived."""
    calls = [asyncio.create_task(call(stubs[i % len(stubs)])) for i in range(n_calls)]
    await asyncio.sleep(0)
    time.sleep(0.5)
    return calls


@pytest.mark.parametrize(("call", "n_channels"), [(predict, 1), (predict, 3), (step, 1)])
def test_no_call_of_a_burst_is_lost(call, n_channels):
    async def run():
        async with (
            served(Soft()) as (ready, _),
            stubs(ready.grpc_url, n_channels) as channels,
        ):
            return await asyncio.gather(*await burst(call, channels, N_CALLS))

    outcomes = asyncio.run(run())
    assert Counter(status for status, _ in outcomes) == {"OK": N_CALLS}


def test_the_calls_of_a_burst_that_find_the_queue_full_may_be_repeated_later():
    potential, n_calls, n_waiting = Gated(), 1300, 100

    async def run():
        async with (
            served(potential, max_waiting=n_waiting) as (ready, _),
            stubs(ready.grpc_url, 1) as channels,
        ):
            calls = await burst(predict, channels, n_calls)
            while sum(call.done() for call in calls) < n_calls - 2 * n_waiting:
                await asyncio.sleep(0.01)
            potential.gate.release(n_calls)
            return await asyncio.gather(*calls)

    outcomes = asyncio.run(run())
    refused = [error for status, error in outcomes if status == "RESOURCE_EXHAUSTED"]
    assert len(refused) >= n_calls - 2 * n_waiting
    assert all(isinstance(error, OverloadedError) and error.retry_after for error in refused)
    assert Counter(status for status, _ in outcomes) == {
        "OK": n_calls - len(refused),
        "RESOURCE_EXHAUSTED": len(refused),
    }


@pytest.mark.parametrize("call", [predict, step])
def test_a_call_that_arrived_before_the_service_stopped_is_not_lost(call):
    """Clients call again at once until the service is gone, as optimizations and walkers do."""
    n_clients = 500

    async def until_refused(first, stub):
        outcomes = [await first]
        while outcomes[-1][0] == "OK":
            outcomes.append(await call(stub))
        return outcomes

    async def run():
        async with served(Soft()) as (ready, stop), stubs(ready.grpc_url, 1) as channels:
            first = await burst(call, channels, n_clients)
            stop.set()
            return await asyncio.gather(*(until_refused(each, channels[0]) for each in first))

    outcomes = [outcome for client in asyncio.run(run()) for outcome in client]
    statuses = Counter(status for status, _ in outcomes)
    assert set(statuses) == {"OK", "UNAVAILABLE"}
    assert statuses["UNAVAILABLE"] == n_clients


def test_calls_that_the_service_has_no_time_to_finish_end_as_unavailable():
    potential, n_calls = Gated(), 1000

    async def run():
        async with (
            served(potential, drain_timeout=0.0) as (ready, stop),
            stubs(ready.grpc_url, 1) as channels,
        ):
            calls = await burst(predict, channels, n_calls)
            stop.set()
            return await asyncio.gather(*calls)

    try:
        outcomes = asyncio.run(run())
    finally:
        potential.gate.release(n_calls)
    assert Counter(status for status, _ in outcomes) == {"UNAVAILABLE": n_calls}
    assert all(isinstance(error, UnavailableError) for _, error in outcomes)
    assert all(error.retry_after for _, error in outcomes)


async def ask(address, head, body=b""):
    """Ask over a connection of its own; return the status and whether the service closes it."""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    reply = (await reader.readuntil(b"\r\n\r\n")).lower()
    writer.close()
    return int(reply.split()[1]), b"connection: close" in reply


def test_no_connection_of_a_burst_over_rest_is_lost_even_if_the_service_stops():
    n_connections = 500
    request = "POST /v1/models/soft/energy", json.dumps(json_body(molecule(2))).encode()

    async def run():
        async with served(Soft()) as (ready, stop):
            address = urlsplit(ready.rest_url)
            calls = [asyncio.create_task(ask(address, *request)) for _ in range(n_connections)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            return await asyncio.gather(*calls)

    assert Counter(status for status, _ in asyncio.run(run())) == {200: n_connections}


def test_the_service_is_not_ready_and_closes_connections_while_it_takes_its_last_calls():
    request = "POST /v1/models/soft/energy", json.dumps(json_body(molecule(2))).encode()

    async def run():
        async with served(Soft()) as (ready, stop):
            address = urlsplit(ready.rest_url)
            before = await ask(address, "GET /health/ready")
            stop.set()
            calls = []
            while (found := await ask(address, "GET /health/ready"))[0] == 200:
                # Each call keeps the service from closing its intake a little longer.
                calls.append(asyncio.create_task(ask(address, *request)))
            return before, found, await asyncio.gather(*calls)

    before, found, answers = asyncio.run(run())
    assert (before, found) == ((200, False), (503, True))
    assert all(status == 200 for status, _ in answers)
