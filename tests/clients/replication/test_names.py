"""A name stands for the addresses of all replicas, and for others after a while."""

import asyncio
import errno
import gc
import itertools
import socket
import threading
import tracemalloc
from contextlib import ExitStack, closing

import pytest

from tests.clients.certificates import Authority
from tests.clients.http_proxy import NamingProxy
from tests.clients.name_server import NameServer
from tests.clients.proxy import CountingProxy
from tests.clients.replication.test_replicas import start
from tests.clients.scarce_threads import ScarceThreads
from tests.clients.serving import port_of, serve
from tests.ports import free_port
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import AsyncClient, Client, DeadlineExceededError, UnavailableError
from twinforce._transports.replication import names as names_module
from twinforce._transports.replication.names import Names
from twinforce._transports.url import parse_address

NAME = "replicas.example"
SCHEMES = {"grpc": "grpc", "rest": "http"}
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
BYTES_OF_PINGS = 200


@pytest.fixture(scope="module")
def server():
    with serve(trusted_hosts="*.example") as server:
        yield server


@pytest.fixture
def names(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    found = NameServer(monkeypatch)
    found.addresses[NAME] = list(HOSTS)
    return found


def listen(stack, port, hosts=HOSTS):
    """Return a proxy to a port at each of several addresses, all with one port of their own."""
    while True:
        try:
            with ExitStack() as attempt:
                own = free_port()
                proxies = [CountingProxy(port, place=(host, own)) for host in hosts]
                for proxy in proxies:
                    attempt.callback(proxy.close)
                stack.push(attempt.pop_all())
                return proxies
        except OSError:
            continue


class Pods:
    """Replicas behind one name, each at an address of its own."""

    def __init__(self, stack, url, scheme):
        self.proxies = listen(stack, port_of(url))
        self.url = f"{scheme}+dns://{NAME}:{self.proxies[0].port}"
        self.look()

    def look(self):
        self._seen = [proxy.n_bytes_sent for proxy in self.proxies]

    @property
    def used(self):
        """Numbers of the replicas that were asked anything, besides pings, since the last look."""
        pairs = zip(self.proxies, self._seen, strict=True)
        sent = [proxy.n_bytes_sent - seen for proxy, seen in pairs]
        return {number for number, n_bytes in enumerate(sent) if n_bytes > BYTES_OF_PINGS}


@pytest.fixture(params=SCHEMES)
def pods(server, names, request):
    assert NAME in names.addresses
    with ExitStack() as stack:
        url = getattr(server, f"{request.param}_url")
        yield Pods(stack, url, SCHEMES[request.param])


def test_walkers_are_spread_over_all_addresses_of_a_name(pods, names):
    with Client(pods.url, timeout=60) as client:
        walkers = [client.stream("lj") for _ in HOSTS]
        energies = {walker.predict(molecule()).energy for walker in walkers}
        assert len(energies) == 1
        homes = []
        for walker in walkers:
            pods.look()
            for _ in range(3):
                walker.predict(molecule())
            homes.append(pods.used)
        assert sorted(homes, key=min) == [{0}, {1}, {2}]
        assert names.n_asked == {NAME: 1}


def test_an_asyncio_client_uses_all_addresses_and_moves(pods):
    async def walk():
        async with AsyncClient(pods.url, timeout=60) as client:
            walkers = [client.stream("lj") for _ in HOSTS]
            energies = {(await walker.predict(molecule())).energy for walker in walkers}
            assert pods.used == {0, 1, 2}
            pods.proxies[0].close()
            pods.proxies[2].close()
            energies |= {(await walker.predict(molecule())).energy for walker in walkers}
            assert len(energies) == 1
            assert len([each async for each in client.propagate(start(), 4, 2, model="lj")]) == 3

    asyncio.run(walk())


def test_a_name_is_looked_up_again_after_a_failure(pods, names):
    names.addresses[NAME] = ["127.0.0.1"]
    with Client(pods.url, timeout=60) as client:
        walker = client.stream("lj")
        expected = walker.predict(molecule()).energy
        names.addresses[NAME] = ["127.0.0.2", "127.0.0.3"]
        pods.proxies[0].close()
        pods.look()
        assert walker.predict(molecule()).energy == expected
        others = [client.stream("lj") for _ in range(4)]
        for each in others:
            assert each.predict(molecule()).energy == expected
        assert pods.used == {1, 2}


def test_walkers_stay_at_an_address_that_is_no_longer_named(pods, names, monkeypatch):
    monkeypatch.setattr("twinforce._transports.replication.names._INTERVAL_S", (0.0, 0.0))
    names.addresses[NAME] = ["127.0.0.1"]
    with Client(pods.url, timeout=60) as client:
        walker = client.stream("lj")
        walker.predict(molecule())
        names.addresses[NAME] = ["127.0.0.2"]

        def is_known():
            pods.look()
            client.predict(molecule(), model="lj")
            return pods.used == {1}

        wait_until(is_known)
        pods.look()
        for _ in range(3):
            walker.predict(molecule())
        assert pods.used == {0}


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NODATA, "No address associated"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure"),
        socket.gaierror(socket.EAI_SYSTEM, "System error"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
    ids=["no address", "no answer", "system", "files"],
)
def test_a_name_without_an_address_is_waited_for(pods, names, error):
    names.addresses[NAME] = error
    with Client(pods.url, max_retries=0) as client, pytest.raises(UnavailableError, match=NAME):
        client.models()
    with Client(pods.url, timeout=60) as client:
        answers = iter([names.addresses[NAME], ["127.0.0.2"]])
        names.addresses[NAME] = lambda: next(answers)
        assert client.models()


def test_a_name_is_looked_up_once_there_are_threads_again(pods, monkeypatch):
    threads = ScarceThreads(2)
    monkeypatch.setattr(names_module, "_thread", threads)
    monkeypatch.setattr(names_module, "_SHORTEST_INTERVAL_S", 0.0)
    with (
        Client(pods.url, max_retries=0) as client,
        pytest.raises(UnavailableError, match="can't start new thread"),
    ):
        client.models()

    async def ask():
        async with AsyncClient(pods.url, timeout=60) as client:
            return await client.models()

    assert asyncio.run(ask())
    assert threads.n_refused == 2


@pytest.mark.parametrize("scheme", SCHEMES.values())
def test_a_name_that_does_not_exist_is_an_error_at_once(names, scheme):
    names.addresses["no-such-host.invalid"] = socket.gaierror(socket.EAI_NONAME, "not known")
    url = f"{scheme}+dns://no-such-host.invalid:1"
    with Client(url) as client, pytest.raises(UnavailableError, match="no host of this name"):
        client.models()

    async def ask():
        async with AsyncClient(url) as client:
            await client.models()

    with pytest.raises(UnavailableError, match="no host of this name"):
        asyncio.run(ask())


def test_names_in_a_list_are_all_looked_up(pods, names):
    names.addresses |= {
        "one.example": ["127.0.0.1"],
        "two.example": ["127.0.0.3", "127.0.0.1"],
        "none.example": socket.gaierror(socket.EAI_NONAME, "not known"),
    }
    scheme, port = pods.url.partition(":")[0], pods.proxies[0].port
    hosts = ",".join(f"{name}.example:{port}" for name in ("none", "one", "two"))
    with Client(f"{scheme}://{hosts}", timeout=60) as client:
        for walker in [client.stream("lj") for _ in range(2)]:
            walker.predict(molecule())
        assert pods.used == {0, 2}


@pytest.mark.parametrize(
    ("error", "expected"),
    [(socket.EAI_AGAIN, {0, 2}), (socket.EAI_NODATA, {0, 2}), (socket.EAI_NONAME, {2})],
    ids=["no answer", "no address", "no such name"],
)
def test_a_name_keeps_its_replicas_unless_it_does_not_exist(names, error, expected, monkeypatch):
    monkeypatch.setattr("twinforce._transports.replication.names._INTERVAL_S", (0.0, 0.0))
    names.addresses |= {"one.example": [HOSTS[0]], "two.example": [HOSTS[1]]}
    found = Names(parse_address("grpc+dns://one.example,two.example").urls)
    found.refresh(0, lambda: True)
    found.wait(60.0)
    assert addresses(found) == set(HOSTS[:2])
    names.addresses["one.example"] = socket.gaierror(error, "as given")
    names.addresses["two.example"] = [HOSTS[2]]

    def has_changed():
        assert found.refresh(0, lambda: True)
        return HOSTS[2] in addresses(found)

    wait_until(has_changed)
    assert addresses(found) == {HOSTS[number] for number in expected}


def addresses(names):
    return {url.address for url in names.found}


class HeldResolver:
    """A resolver that does not answer until it is let go."""

    def __init__(self, answer):
        self._answer = answer
        self.may_go, self.has_answered = threading.Event(), threading.Event()

    def __call__(self):
        assert self.may_go.wait(60.0)
        self.has_answered.set()
        return self._answer


def test_a_call_waits_for_the_look_up_that_it_has_begun(names, monkeypatch):
    monkeypatch.setattr("twinforce._transports.replication.names._SHORTEST_INTERVAL_S", 0.0)
    names.addresses[NAME] = socket.gaierror(socket.EAI_NODATA, "No address associated")
    found = Names(parse_address(f"grpc+dns://{NAME}").urls)
    assert not found.refresh(0, lambda: True)
    with pytest.raises(UnavailableError):
        found.wait(60.0)
    resolver = names.addresses[NAME] = HeldResolver([HOSTS[0]])

    def let_go_once_asked():
        wait_until(lambda: names.n_asked[NAME] == 2)
        resolver.may_go.set()

    helper = threading.Thread(target=let_go_once_asked)
    helper.start()
    assert not found.refresh(0, lambda: True)
    found.wait(60.0)
    helper.join()
    assert addresses(found) == {HOSTS[0]}


def test_a_wait_for_a_look_up_ends_in_time(names):
    resolver = names.addresses[NAME] = HeldResolver([HOSTS[0]])
    found = Names(parse_address(f"grpc+dns://{NAME}").urls)
    assert not found.refresh(0, lambda: True)
    with pytest.raises(DeadlineExceededError, match=NAME):
        found.wait(0.01)
    with pytest.raises(DeadlineExceededError, match=NAME):
        asyncio.run(found.wait_async(0.01))
    resolver.may_go.set()
    found.wait(60.0)


def test_a_canceled_asyncio_call_does_not_wait_for_the_resolver(names):
    resolver = names.addresses[NAME] = HeldResolver([HOSTS[0]])

    async def run():
        async with AsyncClient(f"grpc+dns://{NAME}:1") as client:
            call = asyncio.create_task(client.models())
            while NAME not in names.n_asked:
                await asyncio.sleep(0.002)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()

    asyncio.run(run())
    assert not resolver.has_answered.is_set()
    resolver.may_go.set()
    assert resolver.has_answered.wait(60.0)


def test_the_memory_of_look_ups_is_bounded(names):
    urls, ticks = parse_address(f"grpc+dns://{NAME}").urls, itertools.count(0.0, 1000.0)
    found = Names(urls, lambda: next(ticks))
    tracemalloc.start()
    try:
        sizes = []
        for n_looks in (100, 3000):
            while names.n_asked.get(NAME, 0) < n_looks:
                found.refresh(0, lambda: True)
                found.wait(60.0)
            gc.collect()
            own = tracemalloc.Filter(inclusive=True, filename_pattern=names_module.__file__)
            taken = tracemalloc.take_snapshot().filter_traces([own])
            sizes.append(sum(each.size for each in taken.traces))
    finally:
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 10_000


@pytest.mark.parametrize("transport", SCHEMES)
def test_certificates_are_compared_with_the_name(names, tmp_path, transport):
    authority = Authority(tmp_path)
    certificate, private_key = authority.issue("server", NAME)
    files = {"tls_certificate": str(certificate), "tls_key": str(private_key)}
    with serve(engine="thread", trusted_hosts=NAME, **files) as server, ExitStack() as stack:
        proxies = listen(stack, port_of(getattr(server, f"{transport}_url")), HOSTS[:2])
        names.addresses[NAME] = names.addresses["other.example"] = list(HOSTS[:2])
        scheme, port = f"{SCHEMES[transport]}s+dns", proxies[0].port
        with Client(f"{scheme}://{NAME}:{port}", ca=authority.ca, timeout=60) as client:
            for _ in HOSTS[:2]:
                with client.stream("lj") as walker:
                    walker.predict(molecule())
            assert client.models()
        other = f"{scheme}://other.example:{port}"
        with (
            Client(other, ca=authority.ca, timeout=20) as client,
            pytest.raises(UnavailableError, match="certificate is not trusted"),
        ):
            client.models()


@pytest.mark.parametrize("transport", SCHEMES)
def test_a_proxy_looks_names_up_itself(server, names, monkeypatch, transport):
    url = getattr(server, f"{transport}_url")
    with closing(NamingProxy(port_of(url))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        names.addresses[NAME] = socket.gaierror(socket.EAI_NONAME, "not known")
        with Client(f"{SCHEMES[transport]}+dns://{NAME}:1234", timeout=60) as client:
            assert client.predict(molecule(), model="lj").energy < 0
        assert all(f"{NAME}:1234" in target for _, target in proxy.requests)
        assert NAME not in names.n_asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns:///a", "grpc+dns://a:8001"),
        ("dns:///a:1,b", "grpc+dns://a:1,b:8001"),
        ("grpcs+dns://a:1", "grpcs+dns://a:1"),
        ("http+dns://a:8000/x/", "http+dns://a:8000/x"),
        ("https+dns://a,b", "https+dns://a:443,b:443"),
    ],
)
def test_an_address_may_name_hosts_that_stand_for_all_replicas(text, expected):
    assert str(parse_address(text)) == expected
    assert parse_address(expected) == parse_address(text)
    assert all(each.is_dns for each in parse_address(text).urls)


@pytest.mark.parametrize(
    "text", ["dns://a:8001", "dns://1.1.1.1/a:8001", "dns:///", "dns+dns://a", "dns:///a/b"]
)
def test_an_address_of_a_name_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected a url such as"):
        parse_address(text)
