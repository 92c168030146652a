"""Proxies with the documented settings before three server processes, where they are installed."""

import asyncio
import os
import signal
import subprocess
from contextlib import ExitStack

import grpc
import httpx2
import pytest

from tests.chaos.envoy import Envoy
from tests.chaos.haproxy import SETTINGS, HAProxy
from tests.chaos.proxy import HOSTS
from tests.chaos.service import Service
from tests.ports import free_ports
from tests.service.transports.rest_bodies import json_body, protobuf_body
from tests.systems import crystal
from tests.waiting import wait_until
from twinforce import AsyncClient, Client, Integrator, Start
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

MODEL = "troubled"
# More than the streams that a connection may have by default.
N_WALKERS = 120
# More than the retries at a time that a proxy may allow by default.
N_CALLS = 100
PATIENCE = 120.0


def skip_without(proxy):
    if proxy.path() is None:
        pytest.skip(f"needs the program {proxy.program}")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Three services at addresses of their own, and their ports."""
    with ExitStack() as stack:
        ports = free_ports(HOSTS)
        services = []
        for host in HOSTS:
            services.append(Service(tmp_path_factory.mktemp("service"), host, ports=ports))
            stack.callback(services[-1].stop)
        yield services, ports


@pytest.fixture(scope="module", params=[HAProxy, Envoy], ids=["haproxy", "envoy"])
def proxied(request, tmp_path_factory):
    """Three services, and the proxy before them."""
    skip_without(request.param)
    services, ports = request.getfixturevalue("replicas")
    proxy = request.param(tmp_path_factory.mktemp("proxy"), ports)
    try:
        proxy.start()
        yield services, proxy
    finally:
        proxy.stop()


@pytest.fixture(params=[0, 1], ids=["grpc", "rest"])
def urls(proxied, request):
    """The address of the proxy, and that of a service."""
    services, proxy = proxied
    return proxy.urls[request.param], services[0].urls[request.param]


def test_the_settings_of_haproxy_have_no_flaws():
    skip_without(HAProxy)
    named = {"SERVER_A": "127.0.0.1", "SERVER_B": "127.0.0.2", "SERVER_C": "127.0.0.3"}
    command = [HAProxy.path(), "-c", "-f", str(SETTINGS)]
    done = subprocess.run(
        command, env=os.environ | named, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert not done.stderr.strip()


def test_every_kind_of_call_passes(urls):
    through, direct = urls
    system = crystal(27, seed=0)
    start = Start(system, 0.0 * system.positions, Integrator(inner_steps=2), random=1)
    found = []
    for url in (through, direct):
        with Client(url, timeout=60) as client, client.stream(MODEL) as walker:
            runs = client.propagate(start, 8, 4, model=MODEL), client.relax(system, model=MODEL)
            steps, reports = (list(run) for run in runs)
            found.append(
                (
                    client.predict(system, model=MODEL).energy,
                    walker.predict(system).energy,
                    steps[-1].energy,
                    reports[-1].energy,
                )
            )
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_many_walkers_of_a_process_share_a_connection(proxied):
    _, proxy = proxied
    systems = [crystal(8, seed=number) for number in range(N_WALKERS)]

    async def walk():
        async with AsyncClient(proxy.urls[0], timeout=120) as client:
            walkers = [client.stream(MODEL) for _ in systems]
            for _ in range(2):  # all streams stay open
                pairs = zip(walkers, systems, strict=True)
                steps = [walker.predict(system) for walker, system in pairs]
                energies = [each.energy for each in await asyncio.gather(*steps)]
            return energies

    with Client(proxy.urls[1], timeout=120) as client:
        expected = [each.energy for each in client.predict(systems, model=MODEL)]
    assert asyncio.run(walk()) == pytest.approx(expected, abs=1e-9)


def test_callers_that_do_not_retry_notice_nothing_of_a_dead_server(proxied):
    """All calls that the proxy tries there first reach another one, however many there are."""
    services, proxy = proxied
    message = protobuf_body(crystal(8, seed=0), outputs=["energy"], model=MODEL)
    body = json_body(crystal(8, seed=0))

    async def ask_grpc():
        options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        address = proxy.urls[0].removeprefix("grpc://")
        async with grpc.aio.insecure_channel(address, options) as channel:
            predict = InferenceStub(channel).Predict
            request = pb.PredictRequest.FromString(message)
            calls = [predict(request, timeout=PATIENCE) for _ in range(N_CALLS)]
            return [await call.code() for call in calls]

    async def ask_rest():
        limits = httpx2.Limits(max_connections=N_CALLS)
        async with httpx2.AsyncClient(limits=limits, timeout=PATIENCE, trust_env=False) as client:
            url = f"{proxy.urls[1]}/v1/models/{MODEL}/energy"
            calls = [client.post(url, json=body) for _ in range(N_CALLS)]
            return [reply.status_code for reply in await asyncio.gather(*calls)]

    services[0].process.kill()
    services[0].process.wait(PATIENCE)
    try:
        for url in proxy.urls:  # the proxy has seen that the connections have ended
            with Client(url, timeout=PATIENCE) as client:
                client.predict(crystal(8, seed=0), model=MODEL)
        assert asyncio.run(ask_grpc()) == [grpc.StatusCode.OK] * N_CALLS
        assert asyncio.run(ask_rest()) == [200] * N_CALLS
    finally:
        services[0].restart(signal.SIGKILL, pause=0.0)
        wait_until(services[0].is_ready)


def test_walkers_survive_the_stop_of_a_server_and_a_reload(proxied):
    services, proxy = proxied
    system = crystal(27, seed=0)
    with ExitStack() as stack:
        walkers = []
        for number in range(8):
            client = stack.enter_context(Client(proxy.urls[number % 2], timeout=120))
            walkers.append(stack.enter_context(client.stream(MODEL)))
        (expected,) = {round(walker.predict(system).energy, 9) for walker in walkers}
        services[0].restart(signal.SIGTERM, pause=0.0)
        assert {round(walker.predict(system).energy, 9) for walker in walkers} == {expected}
        wait_until(services[0].is_ready)
        proxy.reload()
        assert {round(walker.predict(system).energy, 9) for walker in walkers} == {expected}
