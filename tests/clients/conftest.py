import signal

import pytest

from tests.clients.serving import serve
from tests.potentials import Soft, loaded


@pytest.fixture(scope="session")
def server():
    """A service of the toy potential, shared by all tests that do not change its state."""
    with serve(trusted_hosts="localhost, 127.0.0.1, *.example") as server:
        yield server


@pytest.fixture(scope="session")
def choosy_server():
    """A service of a model that supports neon and argon only."""
    with serve({"soft": loaded(Soft())}) as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def transport(request):
    return request.param


def url_of(server, transport):
    return server.grpc_url if transport == "grpc" else server.rest_url


@pytest.fixture
def url(server, transport):
    return url_of(server, transport)


@pytest.fixture
def choosy_url(choosy_server, transport):
    return url_of(choosy_server, transport)


@pytest.fixture
def hangups_count():
    """Let programs hear SIGHUP, which they ignore if the tests are run by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
