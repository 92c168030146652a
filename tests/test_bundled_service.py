"""Tests of the default service with the bundled model `water`."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest

from twinforce import Client, System
from twinforce.ase import TwinForceCalculator
from twinforce.md import MDSettings, molecular_dynamics
from twinforce_models import registry
from twinforce_models.prediction import predict
from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models" / "twinforce_models" / "bundled" / "water"
START = ROOT / "demo" / "water64.xyz"
FORCES = ("conservative_forces", "direct_forces")
TOLERANCE = 1e-5  # eV/Å


@pytest.fixture(scope="module")
def server():
    with run_in_thread(
        Settings(rest_port=0, grpc_port=0, n_threads=1, max_batch_time=60)
    ) as server:
        yield server


@pytest.fixture(scope="module")
def system():
    atoms = ase.io.read(START)
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.fixture(scope="module")
def distorted(system):
    """Return the same box, sheared and rattled, with other pairs and forces."""
    strain = np.eye(3) + np.array([[0.0, 0.03, 0.0], [0.0, 0.0, -0.02], [0.01, 0.0, 0.0]])
    noise = np.random.default_rng(0).normal(scale=0.03, size=system.positions.shape)
    return system.moved(system.positions @ strain + noise, system.cell @ strain)


@pytest.fixture(scope="module")
def local(system):
    """Return the prediction of the model in this process."""
    return predict(registry.load("water").potential, [system], ("energy", *FORCES))[0]


def over_a_stream(server, system):
    with Client(server.grpc_url) as client, client.stream(outputs="hybrid") as stream:
        return stream.predict(system)


def over_grpc(server, system):
    with Client(server.grpc_url) as client:
        return client.predict(system, "hybrid")


def over_rest(server, system):
    with Client(server.rest_url) as client:
        return client.predict(system, "hybrid")


def over_rest_in_json(server, system):
    with Client(server.rest_url, encoding="json") as client:
        return client.predict(system, "hybrid")


def assert_same(found, expected):
    assert found.energy == pytest.approx(expected.energy, rel=0.0, abs=1e-3)
    for kind in FORCES:
        np.testing.assert_allclose(
            getattr(found, kind), getattr(expected, kind), rtol=0.0, atol=TOLERANCE
        )


@pytest.mark.parametrize("ask", [over_a_stream, over_grpc, over_rest, over_rest_in_json])
def test_both_forces_equal_those_of_this_process_over_every_transport(server, system, local, ask):
    assert_same(ask(server, system), local)


@pytest.mark.parametrize("ask", [over_a_stream, over_grpc, over_rest, over_rest_in_json])
def test_the_provenance_of_a_prediction_names_its_weights(server, system, ask):
    declared = json.loads((FOLDER / "model.json").read_text())["sha256"]
    provenance = ask(server, system).provenance
    assert (provenance.model, provenance.sha256) == ("water", declared)
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert declared == hashlib.sha256(weights).hexdigest()


def test_a_system_in_a_batch_gets_the_prediction_it_gets_alone(server, system, distorted):
    systems = (system, distorted)
    alone = [over_grpc(server, each) for each in systems]
    with Client(server.grpc_url) as client:
        together = client.predict(systems, "hybrid")
    with ThreadPoolExecutor(2) as callers:
        at_once = list(callers.map(lambda each: over_grpc(server, each), systems))
    for expected, *found in zip(alone, together, at_once, strict=True):
        for each in found:
            assert_same(each, expected)
    assert np.abs(alone[0].direct_forces - alone[1].direct_forces).max() > 0.1
    assert together[0].timings.batch_n_systems == 2


def test_remote_dynamics_conserve_the_energy(server):
    atoms = ase.io.read(START)
    with TwinForceCalculator(server.grpc_url) as atoms.calc:
        run = list(molecular_dynamics(atoms, MDSettings(n_steps=30)))
    energies = np.array([each.total_energy for each in run]) / len(atoms)
    assert len(run) == 31
    assert np.ptp([each.energy for each in run]) / len(atoms) > 1e-3
    assert np.abs(energies - energies[0]).max() < 1e-3


@pytest.mark.parametrize("ask", [over_a_stream, over_grpc, over_rest_in_json])
def test_forces_in_float32_are_as_exact_in_a_large_box_and_far_from_the_origin(server, system, ask):
    double = registry.load("water", dtype="float64").potential
    numbers, positions = system.atomic_numbers[:24], system.positions[:24]
    in_a_box = System(numbers, positions + 7e4, 1e5 * np.eye(3), True)
    for far in (in_a_box, System(numbers, positions - 1e5)):
        found = ask(server, far)
        (expected,) = predict(double, [far], FORCES)
        assert found.provenance.dtype == "float32"
        assert_same(found, dataclasses.replace(expected, energy=found.energy))
