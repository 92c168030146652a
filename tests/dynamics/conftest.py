import pytest

from tests.clients.serving import serve


@pytest.fixture(scope="session")
def server():
    """A service of the Lennard-Jones toy in float64."""
    with serve() as server:
        yield server


@pytest.fixture
def url(server):
    return server.grpc_url
