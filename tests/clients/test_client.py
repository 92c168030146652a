import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import url_of
from tests.clients.proxy import CountingProxy
from tests.clients.serving import ARGON, TOY, free_port, port_of, serve
from tests.potentials import Soft, loaded
from tests.systems import crystal, molecule
from twinforce import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidSystemError,
    ServiceError,
    System,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture
def silent_port():
    """A port where somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def scheme(transport):
    return {"grpc": "grpc", "rest": "http"}[transport]


def test_a_system_gives_a_prediction_and_a_list_a_list(client):
    assert client.predict(molecule()).conservative_forces.shape == (3, 3)
    assert [p.energy for p in client.predict([molecule()])] == [client.predict(molecule()).energy]
    assert client.predict([]) == []


def test_only_what_was_asked_for_comes_back(client):
    prediction = client.predict(molecule(), "direct_forces")
    assert prediction.energy is None
    assert prediction.direct_forces is not None


def test_a_prediction_says_what_made_it_and_where_the_time_went(client):
    prediction = client.predict(molecule(5))
    assert prediction.provenance.model == "lj"
    assert prediction.timings.batch_n_systems >= 1
    assert prediction.timings.batch_n_atoms >= 5
    assert prediction.timings.compute_s > 0


def test_models_say_what_they_have(client):
    (info,) = client.models()
    assert info.name == "lj"
    assert ARGON in info.elements
    assert client.model("lj") == client.model() == info


def test_where_nothing_is_named_the_only_model_is_meant(client):
    assert client.predict(molecule()).provenance.model == "lj"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "lj/", "lj?x=1", "lj\n", "-lj", "wässer", " "])
def test_what_can_be_no_name_of_a_model_is_refused(client, name):
    with client.stream(name) as stream:
        for ask in (
            lambda: client.model(name),
            lambda: client.predict(molecule(), model=name),
            lambda: stream.predict(molecule()),
        ):
            with pytest.raises(InvalidRequestError, match="model: ") as caught:
                ask()
            assert caught.value.field == "model"


def test_among_several_models_water_is_meant_else_one_must_be_named(transport):
    for models, expected in (({"a": TOY, "water": TOY}, "water"), ({"a": TOY, "b": TOY}, None)):
        with serve(model=models) as server:
            url = url_of(server, transport)
            with Client(url) as client, client.stream() as stream:
                if expected:
                    assert client.predict(molecule()).provenance.model == expected
                    assert stream.predict(molecule()).provenance.model == expected
                else:
                    with pytest.raises(
                        InvalidRequestError, match=r"expected the name of a served model \(a, b\)"
                    ):
                        client.predict(molecule())
                    with pytest.raises(
                        InvalidRequestError, match=r"expected the name of a served model \(a, b\)"
                    ):
                        stream.predict(molecule())
                assert client.predict(molecule(), model="a").provenance.model == "a"


FAULTS = {
    "a model that is not served": (
        lambda client: client.predict(molecule(), model="nothing"),
        UnknownModelError,
        "nothing",
    ),
    "a model that is not served, looked up": (
        lambda client: client.model("absent"),
        UnknownModelError,
        "absent",
    ),
    "an output that does not exist": (
        lambda client: client.predict(molecule(), ["forces"]),
        InvalidRequestError,
        "forces",
    ),
    "no output": (lambda client: client.predict(molecule(), []), InvalidRequestError, "outputs"),
    "a stress without a volume": (
        lambda client: client.predict([crystal(), molecule()], ["conservative_stress"]),
        UnsupportedOutputError,
        r"systems\[1\].*periodic",
    ),
    "bad positions": (
        lambda client: client.predict(System([ARGON], [[0, 0, np.nan]])),
        InvalidSystemError,
        "positions",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_the_same_over_every_transport(client, fault):
    ask, kind, text = FAULTS[fault]
    with pytest.raises(kind, match=text) as raised:
        ask(client)
    assert type(raised.value) is kind
    assert client.predict(molecule()).energy is not None


def test_an_unknown_element_is_said_with_its_place(choosy_url):
    with Client(choosy_url) as client:
        with pytest.raises(UnsupportedElementError, match=r"systems\[1\]: atomic_numbers: .*54"):
            client.predict([molecule(), molecule(element=54)])
        with pytest.raises(UnsupportedElementError, match="atomic_numbers"):
            client.predict(molecule(element=54))


def test_json_bodies_say_the_same_errors(server):
    with Client(server.rest_url, encoding="json") as client:
        for ask, kind, text in FAULTS.values():
            with pytest.raises(kind, match=text):
                ask(client)


def test_threads_share_a_client(client):
    systems = [molecule(n) for n in range(1, 17)]
    alone = [client.predict(system).energy for system in systems]
    with ThreadPoolExecutor(8) as threads:
        together = [each.energy for each in threads.map(client.predict, systems)]
    np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_a_service_that_says_nothing_is_waited_for_no_longer_than_the_timeout(
    transport, silent_port
):
    with (
        Client(f"{scheme(transport)}://127.0.0.1:{silent_port}", timeout=0.5) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(client.predict, molecule(), model="lj")
        error = asked.exception(timeout=50)  # less than the default timeout of a client
    assert isinstance(error, DeadlineExceededError | UnavailableError)
    assert f"127.0.0.1:{silent_port}" in str(error)


def test_a_stalled_connection_is_a_deadline_and_no_hang(url):
    proxy = CountingProxy(port_of(url))
    slow_url = f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}"
    with Client(url) as other:
        expected = other.predict(molecule()).energy
    with Client(slow_url, timeout=1.0) as client, client.stream("lj") as stream:
        assert eventually(lambda: stream.predict(molecule()).energy) == expected
        proxy.hold()
        for ask in (partial(client.predict, model="lj"), stream.predict):
            with pytest.raises(DeadlineExceededError, match=r"no answer from .* within 1 s"):
                ask(crystal())
        proxy.resume()
        for ask in (client.predict, stream.predict):
            assert eventually(lambda ask=ask: ask(molecule()).energy) == expected
    proxy.close()


def test_nobody_there_is_said_clearly_and_soon(transport):
    port = free_port()
    with (
        Client(f"{scheme(transport)}://127.0.0.1:{port}") as client,
        pytest.raises(UnavailableError, match=rf"cannot reach {scheme(transport)}://.*:{port}"),
    ):
        client.models()


def test_the_wrong_port_is_said_clearly(server):
    grpc_to_rest = f"grpc://127.0.0.1:{port_of(server.rest_url)}"
    rest_to_grpc = f"http://127.0.0.1:{port_of(server.grpc_url)}"
    for url in (grpc_to_rest, rest_to_grpc):
        with (
            Client(url, timeout=5, max_retries=0) as client,
            pytest.raises(ServiceError, match=r"127\.0\.0\.1"),
        ):
            client.models()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "ftp://host:1", "grpc://", "grpc://host:port", "grpc://host:1/path"]
)
def test_what_is_no_url_is_refused_at_once(url):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="expected a url such as grpc://host:8001"):
            kind(url)


@pytest.mark.parametrize("urgency", [-1, 8, 2.5, "high"])
def test_an_urgency_that_is_none_is_refused_at_once(urgency):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="urgency: expected a whole number from 0"):
            kind("grpc://127.0.0.1:1", urgency=urgency)


def test_a_path_in_front_of_the_service_is_kept():
    assert Client("https://host/twinforce/").url == "https://host:443/twinforce"
    assert Client("grpc://[::1]:8001").url == "grpc://[::1]:8001"


def test_a_restarted_service_is_found_again(transport):
    rest_port, grpc_port = free_port(), free_port()
    ports = {"rest_port": rest_port, "grpc_port": grpc_port}
    url = (
        f"grpc://127.0.0.1:{grpc_port}" if transport == "grpc" else f"http://127.0.0.1:{rest_port}"
    )
    system = molecule()
    with Client(url, max_retries=1) as client, client.stream() as stream:
        with serve({"soft": loaded(Soft())}, **ports):
            first = client.predict(system).energy
            assert stream.predict(system).energy == first
        for ask in (client.predict, stream.predict):
            with pytest.raises(UnavailableError):
                ask(system)
        with serve({"soft": loaded(Soft())}, **ports):
            assert eventually(lambda: client.predict(system).energy) == first
            moved = system.moved(system.positions + 1.0)
            assert eventually(lambda: stream.predict(moved).energy) == pytest.approx(first)


def eventually(ask, seconds=60.0):
    """Retry while the connection backs off from an earlier failure or the timeout is too short."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (DeadlineExceededError, UnavailableError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def test_a_service_that_starts_late_is_waited_for(server, transport):
    proxy = CountingProxy(None)
    url = f"{scheme(transport)}://127.0.0.1:{proxy.port}"
    with Client(url, max_retries=30) as client, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.predict, molecule(), model="lj")
        wait_until(lambda: proxy.n_connections > 0)
        proxy.target = port_of(url_of(server, transport))
        assert asked.result(60).energy is not None
    proxy.close()


def wait_until(condition, seconds=60.0):
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_an_overloaded_service_is_asked_again_when_it_says_so(transport):
    """With room for two waiting systems, eight callers at once are refused now and then."""
    with serve(max_waiting=2) as server:
        url = url_of(server, transport)

        def ask(number):
            with Client(url) as client:
                return [client.predict(molecule(number + 1)).energy for _ in range(2)]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(ask, range(8)))
        with Client(url) as client:
            for number, energies in enumerate(answers):
                expected = client.predict(molecule(number + 1)).energy
                np.testing.assert_allclose(energies, expected, rtol=1e-10)


def test_a_request_above_the_limit_of_the_service_is_too_large(transport):
    with (
        serve(max_body_bytes=5000) as server,
        Client(url_of(server, transport)) as client,
        client.stream() as stream,
    ):
        for ask in (client.predict, stream.predict):
            with pytest.raises(SystemTooLargeError, match=r"larger|at most"):
                ask(molecule(400))
            assert ask(molecule(4)).energy is not None


def test_a_closed_client_says_so(client):
    client.predict(molecule())
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="is closed"):
        client.predict(molecule())


def test_a_client_never_used_can_be_closed(url):
    Client(url).close()


def test_a_pickled_client_is_a_new_one_of_the_same_service(client):
    client.predict(molecule())
    with pickle.loads(pickle.dumps(client)) as other:
        client.close()
        assert other.url == client.url
        assert other.predict(molecule()).energy is not None


def test_a_program_that_closes_nothing_ends(url):
    program = (
        "import sys; from twinforce import *; "
        "client = Client(sys.argv[1]); stream = client.stream(); "
        "print(stream.predict(System([18], [[0.0, 0, 0]])).energy); "
        "client.predict(System([18], [[0.0, 0, 0]]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, url],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "0.0", "")


def test_remote_steps_are_not_held_up_by_the_wire(client):
    """Without TCP_NODELAY, delayed acknowledgments cost 40 ms a step."""
    port = port_of(client.url)
    with client.stream() as stream:
        stream.predict(molecule(2))
        ends = [
            each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in connections_of_this_process()
            if port in (each.getsockname()[1], each.getpeername()[1])
        ]
    assert len(ends) >= 2  # one of the client, one of the service, which runs in a thread
    assert all(ends)


def connections_of_this_process():
    """Yield every TCP connection of this process."""
    for path in Path("/proc/self/fd").iterdir():
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(int(path.name))) as found,
        ):
            if found.family != socket.AF_UNIX:
                found.getpeername()
                yield found
