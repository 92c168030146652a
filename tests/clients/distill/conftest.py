import ase.io
import numpy as np
import pytest
from ase.build import bulk

from tests.clients.serving import serve
from twinforce import Client
from twinforce.distill.joined import ServedModel


@pytest.fixture(scope="session")
def server():
    """A service of the toy model whose direct forces differ from its conservative ones."""
    with serve() as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture
def model(client):
    return ServedModel(client, client.model("lj"))


def shaken_argon():
    """Return a crystal of 32 argon atoms, shaken."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


@pytest.fixture
def argon():
    return shaken_argon()


@pytest.fixture
def file(argon, tmp_path):
    ase.io.write(tmp_path / "argon.xyz", argon)
    return tmp_path / "argon.xyz"
