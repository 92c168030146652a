"""What tests of several rooms share: services on free ports of this machine."""

import os
import signal

import hypothesis
import pytest

from tests.potentials import loaded
from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings

# How long it takes to draw an example depends on the load of the machine, not on the code.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


def free_ports(**values):
    """Return settings of a service on ports that nobody uses."""
    values = {"compile": "off"} | values
    return Settings(rest_port=0, grpc_port=0, water=False, n_threads=1, **values)


def pytest_collection_modifyitems(items):
    """Run files with slow tests first, so that no worker has to finish one alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard():
    """A shell that runs the tests in the background makes all they start deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def services_do_not_compile():
    """Processes that tests start leave the processor to the tests."""
    os.environ["TWINFORCE_COMPILE"] = "off"
    yield
    del os.environ["TWINFORCE_COMPILE"]


@pytest.fixture(scope="session", autouse=True)
def compilers_do_not_optimize():
    """Compile in a fraction of the time; the results are the same."""
    os.environ["TORCHINDUCTOR_DEBUG_COMPILE"] = "1"
    yield
    del os.environ["TORCHINDUCTOR_DEBUG_COMPILE"]


@pytest.fixture
def serve():
    """Return a function that serves the potentials it is given, under the names given."""
    servers = []

    def serve(settings=None, **potentials):
        models = {name: loaded(potential, name) for name, potential in potentials.items()}
        servers.append(run_in_thread(settings or free_ports(), lambda: models))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
