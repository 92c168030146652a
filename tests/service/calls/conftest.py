import numpy as np
import pytest

from tests.clients.serving import ARGON, serve
from tests.systems import molecule
from twinforce import Client, Start, System
from twinforce_dynamics.units import BOLTZMANN

KRYPTON = 36
CELL = [[7.6, 0, 0], [1.5, 7.6, 0], [0.3, -0.8, 7.6]]


def argon():
    """Return five argon and three krypton atoms in a skewed cell."""
    return System([ARGON] * 5 + [KRYPTON] * 3, molecule(8).positions, CELL, pbc=True)


def velocities(seed=0, temperature_k=60.0):
    masses = np.array([39.948] * 5 + [83.798] * 3)[:, None]
    spread = np.sqrt(BOLTZMANN * temperature_k / masses)
    drawn = spread * np.random.default_rng(seed).standard_normal((8, 3))
    return drawn - (masses * drawn).sum(axis=0) / masses.sum()


def start(integrator, seed=7, **more):
    return Start(argon(), velocities(), integrator, **{"random": seed} | more)


@pytest.fixture(scope="session")
def server():
    """Run a service of the Lennard-Jones toy in float64."""
    with serve() as server:
        yield server


@pytest.fixture(params=["grpc", "rest", "json"])
def client(request, server):
    url = server.grpc_url if request.param == "grpc" else server.rest_url
    encoding = "json" if request.param == "json" else "protobuf"
    with Client(url, encoding=encoding) as client:
        yield client
