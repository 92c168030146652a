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
from tests.clients.serving import ARGON, TOY, port_of, serve
from tests.ports import free_port
from tests.potentials import Soft, loaded
from tests.systems import crystal, molecule
from tests.waiting import wait_until
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
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def scheme(transport):
    return {"grpc": "grpc", "rest": "http"}[transport]


def test_predict_returns_a_prediction_for_a_system_and_a_list_for_a_list(client):
    assert client.predict(molecule()).conservative_forces.shape == (3, 3)
    assert [p.energy for p in client.predict([molecule()])] == [client.predict(molecule()).energy]
    assert client.predict([]) == []


def test_a_prediction_holds_only_the_requested_outputs(client):
    prediction = client.predict(molecule(), "direct_forces")
    assert prediction.energy is None
    assert prediction.direct_forces is not None


def test_a_prediction_has_provenance_and_timings(client):
    prediction = client.predict(molecule(5))
    assert prediction.provenance.model == "lj"
    assert prediction.timings.batch_n_systems >= 1
    assert prediction.timings.batch_n_atoms >= 5
    assert prediction.timings.queue_n_atoms >= 0
    assert prediction.timings.compute_s > 0


def test_models_are_described(client):
    (info,) = client.models()
    assert info.name == "lj"
    assert ARGON in info.elements
    assert client.model("lj") == client.model() == info


def test_the_only_served_model_is_the_default(client):
    assert client.predict(molecule()).provenance.model == "lj"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "lj/", "lj?x=1", "lj\n", "-lj", "wässer", " "])
def test_invalid_model_names_are_refused(client, name):
    with client.stream(name) as stream:
        for call in (
            lambda: client.model(name),
            lambda: client.predict(molecule(), model=name),
            lambda: stream.predict(molecule()),
        ):
            with pytest.raises(InvalidRequestError, match="model: ") as caught:
                call()
            assert caught.value.field == "model"


def test_water_is_the_default_among_several_models_and_otherwise_a_name_is_required(transport):
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
        r"systems\[1\]: cell: .*volume, got no cell",
    ),
    "bad positions": (
        lambda client: client.predict(System([ARGON], [[0, 0, np.nan]])),
        InvalidSystemError,
        "positions",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_the_same_over_every_transport(client, fault):
    call, kind, text = FAULTS[fault]
    with pytest.raises(kind, match=text) as raised:
        call(client)
    assert type(raised.value) is kind
    assert client.predict(molecule()).energy is not None


def test_the_error_for_an_unsupported_element_names_the_system(choosy_url):
    with Client(choosy_url) as client:
        with pytest.raises(UnsupportedElementError, match=r"systems\[1\]: atomic_numbers: .*54"):
            client.predict([molecule(), molecule(element=54)])
        with pytest.raises(UnsupportedElementError, match="atomic_numbers"):
            client.predict(molecule(element=54))


def test_errors_are_the_same_with_json_bodies(server):
    with Client(server.rest_url, encoding="json") as client:
        for call, kind, text in FAULTS.values():
            with pytest.raises(kind, match=text):
                call(client)


def test_threads_share_a_client(client):
    systems = [molecule(n) for n in range(1, 17)]
    alone = [client.predict(system).energy for system in systems]
    with ThreadPoolExecutor(8) as threads:
        together = [each.energy for each in threads.map(client.predict, systems)]
    np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_the_timeout_applies_to_a_service_that_never_answers(transport, silent_port):
    with (
        Client(f"{scheme(transport)}://127.0.0.1:{silent_port}", timeout=0.5) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        future = thread.submit(client.predict, molecule(), model="lj")
        error = future.exception(timeout=50)  # less than the default timeout of a client
    assert isinstance(error, DeadlineExceededError | UnavailableError)
    assert f"127.0.0.1:{silent_port}" in str(error)


def test_a_stalled_connection_ends_with_the_timeout(url):
    proxy = CountingProxy(port_of(url))
    slow_url = f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}"
    with Client(url) as other:
        expected = other.predict(molecule()).energy
    with Client(slow_url, timeout=1.0) as client, client.stream("lj") as stream:
        assert eventually(lambda: stream.predict(molecule()).energy) == expected
        proxy.hold()
        for predict in (partial(client.predict, model="lj"), stream.predict):
            with pytest.raises(
                DeadlineExceededError, match=r"no answer from .* within (1|0.9..) s"
            ):
                predict(crystal())
        proxy.resume()
        for predict in (client.predict, stream.predict):
            assert eventually(lambda predict=predict: predict(molecule()).energy) == expected
    proxy.close()


def test_the_error_names_the_address_that_cannot_be_reached(transport):
    port = free_port()
    with (
        Client(f"{scheme(transport)}://127.0.0.1:{port}", max_retries=1) as client,
        pytest.raises(UnavailableError, match=rf"cannot reach {scheme(transport)}://.*:{port}"),
    ):
        client.models()


def test_the_error_for_a_wrong_port_names_the_address(server):
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
def test_an_invalid_url_is_refused_before_connecting(url):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="expected a url such as grpc://host:8001"):
            kind(url)


@pytest.mark.parametrize("urgency", [-1, 8, 2.5, "high"])
def test_an_invalid_urgency_is_refused_before_connecting(urgency):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="urgency: expected a whole number from 0"):
            kind("grpc://127.0.0.1:1", urgency=urgency)


def test_a_path_in_front_of_the_service_is_kept():
    assert Client("https://host/twinforce/").url == "https://host:443/twinforce"
    assert Client("grpc://[::1]:8001").url == "grpc://[::1]:8001"


def test_clients_and_streams_reconnect_to_a_restarted_service(transport):
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
        for predict in (client.predict, stream.predict):
            with pytest.raises(UnavailableError):
                predict(system)
        with serve({"soft": loaded(Soft())}, **ports):
            assert eventually(lambda: client.predict(system).energy) == first
            moved = system.moved(system.positions + 1.0)
            assert eventually(lambda: stream.predict(moved).energy) == pytest.approx(first)


def eventually(call, seconds=60.0):
    """Retry while the connection backs off from an earlier failure or the timeout is too short."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (DeadlineExceededError, UnavailableError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def test_a_client_retries_until_the_service_starts(server, transport):
    proxy = CountingProxy(None)
    url = f"{scheme(transport)}://127.0.0.1:{proxy.port}"
    with Client(url, max_retries=30) as client, ThreadPoolExecutor(1) as thread:
        future = thread.submit(client.predict, molecule(), model="lj")
        wait_until(lambda: proxy.n_connections > 0)
        proxy.target = port_of(url_of(server, transport))
        assert future.result(60).energy is not None
    proxy.close()


def test_a_client_retries_an_overloaded_service(transport):
    """A queue of two systems sometimes refuses requests of eight concurrent clients."""
    with serve(max_waiting=2) as server:
        url = url_of(server, transport)

        def predict_twice(number):
            with Client(url) as client:
                return [client.predict(molecule(number + 1)).energy for _ in range(2)]

        with ThreadPoolExecutor(8) as threads:
            all_energies = list(threads.map(predict_twice, range(8)))
        with Client(url) as client:
            for number, energies in enumerate(all_energies):
                expected = client.predict(molecule(number + 1)).energy
                np.testing.assert_allclose(energies, expected, rtol=1e-10)


def test_a_request_above_the_size_limit_of_the_service_is_refused(transport):
    with (
        serve(max_body_bytes=5000) as server,
        Client(url_of(server, transport)) as client,
        client.stream() as stream,
    ):
        for predict in (client.predict, stream.predict):
            with pytest.raises(SystemTooLargeError, match=r"larger|at most"):
                predict(molecule(400))
            assert predict(molecule(4)).energy is not None


def test_a_closed_client_raises_an_error(client):
    client.predict(molecule())
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="is closed"):
        client.predict(molecule())


def test_an_unused_client_can_be_closed(url):
    Client(url).close()


def test_a_pickled_client_is_a_new_client_of_the_same_service(client):
    client.predict(molecule())
    with pickle.loads(pickle.dumps(client)) as other:
        client.close()
        assert other.url == client.url
        assert other.predict(molecule()).energy is not None


def test_a_program_that_closes_no_client_exits(url):
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


def test_connections_send_small_messages_without_delay(client):
    """Check TCP_NODELAY: without it, delayed acknowledgments cost 40 ms a step."""
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
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            duplicate = os.dup(int(path.name))
        except OSError:  # it was that of the listing
            continue
        try:
            found = socket.socket(fileno=duplicate)
        except OSError:  # not a socket
            os.close(duplicate)
            continue
        with contextlib.suppress(OSError), found:
            if found.family != socket.AF_UNIX:
                found.getpeername()
                yield found
