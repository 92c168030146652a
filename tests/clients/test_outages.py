"""Tests that calls and runs survive a service that is away, and paths that break or fall silent."""

import asyncio
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import grpc
import numpy as np
import pytest

from tests.clients.proxy import CountingProxy
from tests.clients.refusing import RefusingProxy, RefusingServer
from tests.clients.serving import port_of, serve
from tests.logs import records_of
from tests.potentials import Gated, loaded
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    Integrator,
    RequestCancelledError,
    ServiceError,
    Start,
    SystemTooLargeError,
    UnavailableError,
)
from twinforce._options import Options
from twinforce._retries import Outage, Retries
from twinforce._transports.transport import KeepAlive, MisdirectedError
from twinforce._transports.watch import ReplyWatch, watch_id
from twinforce_proto import OverloadedError

SCHEMES = {"grpc": "grpc", "rest": "http"}
# More attempts than a client once made before it gave up.
SEVERAL = 5
# Seconds after which a test with a clock of its own no longer waits.
FOREVER = 10_000.0


@pytest.fixture
def quick_keep_alive(monkeypatch):
    """Over HTTP another connection answers, so that no silence is as long as the patience."""
    patiences = {"grpc": 0.2, "rest": 60.0, "rest_errors": 60.0, "rest_pools": 60.0, "watch": 60.0}
    for module, patience in patiences.items():
        keep_alive = KeepAlive(interval=0.2, patience=patience, connect=2.0)
        monkeypatch.setattr(f"twinforce._transports.{module}.KEEP_ALIVE", keep_alive)


def start():
    integrator = Integrator(inner_steps=2)
    return Start(molecule(), np.zeros((3, 3)), integrator, random=np.random.default_rng(0))


CALLS = {
    "predict": lambda client: client.predict(molecule(), model="lj").energy,
    "stream": lambda client: client.stream("lj").predict(molecule()).energy,
    "models": lambda client: len(client.models()),
    "propagate": lambda client: [
        each.checkpoint for each in client.propagate(start(), 4, 2, model="lj")
    ],
    "relax": lambda client: [
        each.energy for each in client.relax(molecule(), max_steps=4, interval=2, model="lj")
    ],
}
ASYNC_CALLS = {
    "predict": lambda client: client.predict(molecule(), model="lj"),
    "stream": lambda client: client.stream("lj").predict(molecule()),
}


def outcome(url, call, **options):
    with Client(url, **options) as client:
        return CALLS[call](client)


def outcome_of_asyncio(url, call, **options):
    async def run():
        async with AsyncClient(url, **options) as client:
            return (await ASYNC_CALLS[call](client)).energy

    return asyncio.run(run())


def test_a_reply_that_is_cut_off_is_asked_for_again(url, transport):
    """As a stopping server does if the last bytes of a large reply have not left the system."""
    systems = [molecule(500, seed=seed) for seed in range(4)]  # a reply of 48 kB
    with Client(url) as client:
        expected = [each.energy for each in client.predict(systems, "hybrid", "lj")]
    with (
        closing(CountingProxy(port_of(url), cut_after=[20_000])) as proxy,
        Client(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}") as client,
    ):
        assert [each.energy for each in client.predict(systems, "hybrid", "lj")] == expected
        assert proxy.n_connections == 2


@pytest.mark.parametrize("call", CALLS)
def test_a_client_waits_for_a_service_that_is_away(url, transport, call):
    expected = outcome(url, call)
    with closing(CountingProxy(None)) as proxy, ThreadPoolExecutor(1) as thread:
        found = thread.submit(outcome, f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}", call)
        wait_until(lambda: proxy.n_connections >= SEVERAL)
        proxy.target = port_of(url)
        assert found.result(60) == expected


@pytest.mark.parametrize("call", ASYNC_CALLS)
def test_an_async_client_waits_for_a_service_that_is_away(url, transport, call):
    expected = outcome(url, call)
    with closing(CountingProxy(None)) as proxy, ThreadPoolExecutor(1) as thread:
        address = f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}"
        found = thread.submit(outcome_of_asyncio, address, call)
        wait_until(lambda: proxy.n_connections >= SEVERAL)
        proxy.target = port_of(url)
        assert found.result(60) == expected


def test_a_walker_and_a_run_go_on_after_a_restart(url, transport):
    with closing(CountingProxy(port_of(url))) as proxy, ThreadPoolExecutor(2) as threads:
        address = f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}"
        with Client(address) as client, client.stream() as stream:
            run = client.propagate(start(), 40, 2)
            first = stream.predict(molecule()).energy
            seen = [next(run)]
            proxy.target = None
            proxy.cut()
            before = proxy.n_connections
            energy = threads.submit(lambda: stream.predict(molecule()).energy)
            rest = threads.submit(lambda: list(run))
            wait_until(lambda: proxy.n_connections >= before + SEVERAL)
            proxy.target = port_of(url)
            assert energy.result(60) == first
            seen += rest.result(60)
    with Client(url) as client:
        expected = list(client.propagate(start(), 40, 2))
    assert [each.checkpoint for each in seen] == [each.checkpoint for each in expected]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("quick_keep_alive")
def test_a_silent_path_is_noticed_and_replaced(url, transport, call):
    expected = outcome(url, call)
    with closing(CountingProxy(port_of(url))) as proxy:
        with Client(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}", timeout=None) as client:
            client.models()
            proxy.silence()
            assert CALLS[call](client) == expected
        assert proxy.n_connections >= 2


@pytest.mark.usefixtures("quick_keep_alive")
def test_an_async_client_notices_a_silent_path(url, transport):
    async def energies(proxy):
        address = f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}"
        async with AsyncClient(address, timeout=None) as client, client.stream() as stream:
            found = [(await stream.predict(molecule())).energy]
            proxy.silence()
            found.append((await stream.predict(molecule())).energy)
            proxy.silence()
            return [*found, (await client.predict(molecule())).energy]

    with closing(CountingProxy(port_of(url))) as proxy:
        assert len({*asyncio.run(energies(proxy))}) == 1
        assert proxy.n_connections >= 3


@pytest.mark.usefixtures("quick_keep_alive")
def test_a_run_goes_on_after_its_path_fell_silent(url, transport):
    with Client(url) as client:
        expected = [each.checkpoint for each in client.propagate(start(), 40, 2)]
    with closing(CountingProxy(port_of(url), silent_after=[10_000])) as proxy:
        with Client(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}") as client:
            seen = list(client.propagate(start(), 40, 2))
        assert proxy.n_connections >= 2
    assert [each.checkpoint for each in seen] == expected


class DividingProxy(CountingProxy):
    """A load balancer: each connection goes to the next of the given ports, or to the last."""

    def __init__(self, *ports):
        self.ports = list(ports)
        super().__init__(ports[0])

    def _connect(self, near):
        self.target = self.ports.pop(0) if len(self.ports) > 1 else self.ports[0]
        super()._connect(near)


@pytest.fixture
def gated():
    """A service that is held while it evaluates, and its potential."""
    potential = Gated()
    with serve({"soft": loaded(potential)}) as server:
        for _ in range(2):  # the warm-up
            assert potential.entered.acquire(timeout=60)
        yield server, potential
        potential.gate.release(1000)


@pytest.mark.usefixtures("quick_keep_alive")
def test_a_request_that_takes_long_is_sent_once_over_http(gated):
    server, potential = gated
    with (
        closing(CountingProxy(port_of(server.rest_url))) as proxy,
        ThreadPoolExecutor(1) as pool,
        Client(f"http://127.0.0.1:{proxy.port}") as client,
    ):
        found = pool.submit(client.predict, molecule(), model="soft")
        assert potential.entered.acquire(timeout=60)
        wait_until(lambda: proxy.n_connections >= 4)  # three of them ask about the first
        potential.gate.release(1000)
        assert found.result(60).energy is not None
    assert not potential.entered.acquire(blocking=False)


def test_each_attempt_is_watched_with_twice_the_patience_of_the_one_before():
    waits = []
    for n_lost in (0, 1, 2, 5000):
        watch = ReplyWatch()
        watch.note_sent(f"POST / HTTP/1.1\r\nX-Watch-Id: {watch_id(n_lost)}\r\n\r\n".encode())
        waits.append(watch.wait(0))
    assert waits[:3] == [10.0, 20.0, 40.0]
    assert 1e6 < waits[3] < math.inf


@pytest.mark.usefixtures("quick_keep_alive")
def test_a_request_that_another_replica_does_not_know_is_sent_again(gated, server):
    first, potential = gated
    order = [first, server, server, first, server, server, first]
    ports = [port_of(each.rest_url) for each in order]
    with (
        closing(DividingProxy(*ports)) as proxy,
        ThreadPoolExecutor(1) as pool,
        Client(f"http://127.0.0.1:{proxy.port}") as client,
    ):
        found = pool.submit(client.predict, molecule(), model="soft")
        wait_until(lambda: proxy.n_connections >= len(order))
        potential.gate.release(1000)
        assert found.result(60).energy is not None


REFUSALS = {
    "a burst": (grpc.StatusCode.CANCELLED, ""),
    "a broken stream": (grpc.StatusCode.UNKNOWN, "Stream removed"),
    "a reset by a proxy": (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    "calm": (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received RST_STREAM with error code 11"),
    "too many calls": (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many pending requests"),
    "a closed proxy": (grpc.StatusCode.UNKNOWN, "Received http2 header with status: 499"),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "Too many pings"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_call_that_grpc_refuses_is_repeated(server, refusal, monkeypatch):
    monkeypatch.setattr("twinforce._transports.grpc_errors._RETRY_AFTER", 0.01)
    for call, use in CALLS.items():
        refusing = RefusingServer(port_of(server.grpc_url), [REFUSALS[refusal]] * SEVERAL)
        with closing(refusing), Client(f"grpc://127.0.0.1:{refusing.port}") as client:
            assert use(client) == outcome(server.grpc_url, call)
            assert refusing.n_calls > SEVERAL


def test_an_async_call_that_grpc_refuses_is_repeated(server):
    for call in ASYNC_CALLS:
        refusing = RefusingServer(port_of(server.grpc_url), list(REFUSALS.values()))
        with closing(refusing):
            found = outcome_of_asyncio(f"grpc://127.0.0.1:{refusing.port}", call)
        assert found == outcome(server.grpc_url, call)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((grpc.StatusCode.UNKNOWN, "Exception calling application"), ServiceError),
        ((grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), UnavailableError),
        ((grpc.StatusCode.PERMISSION_DENIED, ""), ServiceError),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), SystemTooLargeError),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, ""), DeadlineExceededError),
    ],
)
def test_other_statuses_of_grpc_are_not_repeated(server, refusal, kind):
    refusing = RefusingServer(port_of(server.grpc_url), [refusal])
    with closing(refusing), Client(f"grpc://127.0.0.1:{refusing.port}") as client:
        with pytest.raises(kind):
            client.models()
        assert refusing.n_calls == 1


STATUSES = [
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "499 Client Closed Request",
    "408 Request Timeout",
    "429 Too Many Requests\r\nRetry-After: 0",
    "520 Unknown",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_request_that_an_http_proxy_refuses_is_repeated(server, call):
    with closing(RefusingProxy(port_of(server.rest_url), STATUSES)) as proxy:
        found = outcome(f"http://127.0.0.1:{proxy.port}", call)
        assert found == outcome(server.rest_url, call)
        assert proxy.n_connections > len(STATUSES)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "401 Unauthorized", "418 Teapot"])
def test_other_statuses_of_http_are_not_repeated(server, status):
    with closing(RefusingProxy(port_of(server.rest_url), [status])) as proxy:
        with pytest.raises(ServiceError, match=status):
            outcome(f"http://127.0.0.1:{proxy.port}", "models")
        assert proxy.n_connections == 1


FOREIGN = {
    "grpc": [(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")] * SEVERAL,
    "rest": ["404 Not Found", "405 Method Not Allowed", "501 Unsupported method"],
}


@pytest.mark.parametrize("call", CALLS)
def test_another_program_at_the_address_is_waited_out_if_the_service_was_there(
    url, transport, call
):
    kind = {"grpc": RefusingServer, "rest": RefusingProxy}[transport]
    with (
        closing(kind(port_of(url), FOREIGN[transport][:1])) as other,
        Client(f"{SCHEMES[transport]}://127.0.0.1:{other.port}") as client,
    ):
        with pytest.raises(UnavailableError, match="another program answers there"):
            client.models()
        client.models()
        other.refuse(*FOREIGN[transport])
        assert CALLS[call](client) == outcome(url, call)


@pytest.mark.parametrize("call", ["predict", "stream", "relax"])
def test_closing_a_client_ends_its_calls(url, transport, call):
    with closing(CountingProxy(port_of(url))) as proxy, ThreadPoolExecutor(1) as pool:
        client = Client(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}", timeout=None)
        pool.submit(client.models).result(60)
        before, _ = proxy.n_bytes_sent, proxy.hold()
        found = pool.submit(CALLS[call], client)
        wait_until(lambda: proxy.n_bytes_sent > before + 100)
        client.close()
        with pytest.raises((RuntimeError, RequestCancelledError), match="closed"):
            found.result(60)


@pytest.mark.parametrize("call", CALLS)
def test_closing_a_client_ends_its_wait(transport, call):
    with closing(CountingProxy(None)) as proxy, ThreadPoolExecutor(1) as pool:
        address = f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}"
        client = Client(address, timeout=None)
        found = pool.submit(CALLS[call], client)
        wait_until(lambda: proxy.n_connections >= 2)
        client.close()
        with pytest.raises((RuntimeError, RequestCancelledError), match="closed"):
            found.result(60)


@pytest.mark.parametrize("call", ASYNC_CALLS)
def test_closing_an_async_client_ends_its_calls_with_an_error(url, transport, call):
    async def closed(proxy):
        client = AsyncClient(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}", timeout=None)
        await ASYNC_CALLS[call](client)
        before, _ = proxy.n_bytes_sent, proxy.hold()
        found = asyncio.ensure_future(ASYNC_CALLS[call](client))
        while proxy.n_bytes_sent < before + 100:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises((RuntimeError, RequestCancelledError), match="closed"):
            await found

    with closing(CountingProxy(port_of(url))) as proxy:
        asyncio.run(closed(proxy))


def test_closing_or_canceling_ends_the_wait_of_an_async_client(transport):
    async def waits(proxy):
        async with AsyncClient(f"{SCHEMES[transport]}://127.0.0.1:{proxy.port}") as client:
            calls = [asyncio.ensure_future(client.predict(molecule())) for _ in range(2)]
            while proxy.n_connections < 2:
                await asyncio.sleep(0.01)
            calls[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await calls[0]
        with pytest.raises((RuntimeError, ServiceError)):
            await calls[1]

    with closing(CountingProxy(None)) as proxy:
        asyncio.run(waits(proxy))


HINTS = {
    "grpc to rest": ("grpc", "rest_url", "the url begins with http://"),
    "rest to grpc": ("http", "grpc_url", "the url begins with grpc://"),
    "grpcs to rest": ("grpcs", "rest_url", "it does not use TLS.* begins with grpc://"),
    "grpcs to grpc": ("grpcs", "grpc_url", "it does not use TLS.* begins with grpc://"),
    "https to rest": ("https", "rest_url", "it does not use TLS.* begins with http://"),
    "https to grpc": ("https", "grpc_url", "it does not use TLS.* begins with http://"),
}


@pytest.mark.parametrize("case", HINTS)
def test_a_wrong_scheme_or_port_fails_at_once_with_a_hint(server, case):
    scheme, name, hint = HINTS[case]
    url = f"{scheme}://127.0.0.1:{port_of(getattr(server, name))}"

    async def first():
        async with AsyncClient(url, timeout=None) as client:
            await client.models()

    with Client(url, timeout=None) as client:
        for call in (client.models, lambda: asyncio.run(first())):
            with pytest.raises(UnavailableError, match=f"cannot reach {url}: .*{hint}"):
                call()


@pytest.mark.parametrize("call", ["models", "stream", "relax"])
@pytest.mark.parametrize("scheme", ["grpc", "http", "grpcs", "https"])
def test_an_unknown_host_fails_at_once(scheme, call):
    url = f"{scheme}://nothing.invalid:8001"
    with (
        Client(url, timeout=None) as client,
        pytest.raises(UnavailableError, match="there is no host of this name"),
    ):
        CALLS[call](client)


@pytest.mark.parametrize("scheme", ["grpc", "http", "grpcs", "https"])
def test_port_0_is_refused(scheme):
    with pytest.raises(ValueError, match="no service can have port 0"):
        Client(f"{scheme}://host:0")


class Clock:
    """A clock that the test sets, in place of `time.monotonic`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("twinforce._retries.time", clock)
    return clock


def waited(clock, retries, error, attempt=0.0):
    """Return the seconds until the retries end, with attempts that take so long."""
    began = clock.now
    with suppress(ServiceError):
        while clock.now < began + FOREVER:
            retries.begin()
            clock.now += attempt
            clock.now += retries.pause_after(error)
    return clock.now - began


AWAY = UnavailableError("away")


def of_call(**options):
    options = Options(**options)
    counts = options.counts_outages
    return Retries(options, Outage(), options.timeout, counts_outages=counts)


def of_run(timeout=None, **options):
    return Retries(Options(**options), Outage(), timeout, counts_outages=True)


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        (lambda: of_call(), 60),
        (lambda: of_call(timeout=7.0), 7),
        (lambda: of_call(timeout=7.0, reconnect_timeout=3600), 3600),
        (lambda: of_call(timeout=7.0, reconnect_timeout=2), 2),
        (lambda: of_run(), 60),
        (lambda: of_run(timeout=20.0), 20),
        (lambda: of_run(reconnect_timeout=3600), 3600),
        (lambda: of_call(timeout=None), FOREVER),
        (lambda: of_call(timeout=7.0, reconnect_timeout=None), FOREVER),
        (lambda: of_run(reconnect_timeout=math.inf), FOREVER),
    ],
)
def test_an_outage_is_ridden_through_for_as_long_as_asked(clock, retries, expected):
    found = waited(clock, retries(), AWAY)
    assert expected - 0.5 < found <= expected or found >= FOREVER == expected


def test_a_service_that_is_back_is_found_soon(clock):
    retries, began = of_call(), clock.now
    while clock.now < began + 50:
        retries.begin()
        pause = retries.pause_after(AWAY)
        assert 0 < pause <= max(0.1, min(5.0, (clock.now - began) / 4))
        clock.now += pause


def test_an_outage_does_not_count_against_the_timeout_if_it_has_its_own(clock):
    retries = of_call(timeout=5.0, reconnect_timeout=100.0)
    retries.begin()
    clock.now += 90.0 + retries.pause_after(AWAY)
    assert retries.begin() == 5.0


def test_a_run_may_meet_one_outage_after_another(clock):
    retries = of_run()
    for _ in range(30):
        clock.now += 45.0 + retries.pause_after(AWAY)
        retries.succeed()
        retries.begin()


def test_a_run_without_updates_is_not_repeated_for_ever(clock):
    assert waited(clock, of_run(), AWAY, attempt=600.0) < 12 * 600


def test_an_overloaded_service_is_asked_until_the_timeout(clock):
    error = OverloadedError("full", retry_after=2.0)
    assert 56 < waited(clock, of_call(max_retries=0, reconnect_timeout=5), error) <= 60


def test_retries_can_be_counted(clock):
    retries = of_call(max_retries=2)
    for _ in range(2):
        retries.begin()
        clock.now += retries.pause_after(AWAY)
    with pytest.raises(UnavailableError):
        retries.pause_after(AWAY)


@pytest.mark.parametrize(
    ("seconds", "kind"), [(0.5, UnavailableError), (30.0, DeadlineExceededError)]
)
def test_an_outage_is_reported_unless_the_last_attempt_had_time(clock, seconds, kind):
    retries = of_call()
    retries.begin()
    retries.pause_after(AWAY)
    clock.now += 60.0 - seconds
    retries.begin()
    clock.now += seconds
    with pytest.raises(kind):
        retries.pause_after(DeadlineExceededError("no answer in time"))


def test_an_address_that_was_right_before_is_tried_again():
    error = MisdirectedError("no host of this name")
    outage = Outage()
    retries = Retries(Options(), outage, 60.0, counts_outages=True)
    with pytest.raises(MisdirectedError):
        retries.pause_after(error)
    retries.succeed()
    assert retries.pause_after(error) > 0


def test_long_waits_are_logged_at_once_every_minute_and_at_the_end(clock, caplog):
    retries = of_call(timeout=None)
    with caplog.at_level(logging.WARNING, "twinforce"):
        for _ in range(150):
            retries.begin()
            retries.pause_after(AWAY)
            clock.now += 1.0
        retries.begin()
        retries.succeed()
    waiting = "waiting for the service: away"
    over = "the service answers again, after 150 s"
    assert [record.message for record in records_of(caplog, "twinforce")] == [waiting] * 3 + [over]


def test_short_outages_are_not_logged(clock, caplog):
    retries = of_call()
    retries.begin()
    clock.now += retries.pause_after(AWAY)
    retries.succeed()
    assert not records_of(caplog, "twinforce")
