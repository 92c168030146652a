"""Tests of one hybrid out of two services."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units

from tests.clients.serving import serve
from twinforce import Client, ModelChangedError, UnknownModelError
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator, system_of
from twinforce.distill.joined import JoinedClient, ServedModel
from twinforce.md import draw_velocities


@pytest.fixture
def other():
    """A service of a model without any forces, also for argon."""
    with serve(model={"gas": "toy:ideal-gas"}) as server, Client(server.grpc_url) as client:
        yield ServedModel(client, client.model("gas"))


@pytest.fixture
def joined(model, other):
    return JoinedClient(model, other)


def test_each_kind_of_forces_comes_from_its_model(joined, model, other, argon):
    system = system_of(argon)
    found = joined.predict(system, "hybrid", "hybrid")
    expected = model.client.predict(system, "hybrid", "lj")
    direct = other.client.predict(system, "direct_forces", "gas")
    assert found.energy == expected.energy
    np.testing.assert_array_equal(found.conservative_forces, expected.conservative_forces)
    np.testing.assert_array_equal(found.direct_forces, direct.direct_forces)
    with joined.stream("hybrid") as stream:
        streamed = stream.predict(system, "hybrid")
    np.testing.assert_array_equal(streamed.direct_forces, direct.direct_forces)
    assert streamed.provenance == found.provenance
    assert streamed.timings.compute_s > 0.0


def test_it_describes_itself_as_a_composed_model_does(joined):
    composed = {"hybrid": "conservative:toy:lennard-jones+direct:toy:ideal-gas"}
    with serve(model=composed) as server, Client(server.grpc_url) as client:
        expected = client.model("hybrid")
    assert replace(joined.model(), card="", metadata={}) == replace(
        expected, card="", metadata={}, units=joined.model().units
    )
    with pytest.raises(UnknownModelError):
        joined.model("lj")


def test_dynamics_run_on_it_as_on_a_composed_model(joined, argon):
    def energies(client):
        atoms = argon.copy()
        draw_velocities(atoms, 40.0, np.random.default_rng(1))
        with TwinForceCalculator(client, model="hybrid") as atoms.calc:
            dynamics = MultipleTimeStepping(atoms, 1.0 * units.fs, inner_steps=3)
            dynamics.run(4)
            return dynamics.energy, dynamics.kinetic_energy

    composed = {"hybrid": "conservative:toy:lennard-jones+direct:toy:ideal-gas"}
    with serve(model=composed) as server, Client(server.grpc_url) as client:
        assert energies(joined) == pytest.approx(energies(client), abs=1e-9)


def test_the_stress_comes_along_if_it_is_wanted(model, argon):
    joined = JoinedClient(model, None, has_stress=True)
    found = joined.predict(argon, ["energy", "conservative_forces"])
    expected = model.client.predict(argon, "conservative_stress", "lj")
    np.testing.assert_allclose(found.conservative_stress, expected.conservative_stress, atol=1e-12)
    assert "direct_forces" not in joined.model().outputs


def test_other_weights_are_refused(model, argon):
    changed = ServedModel(model.client, replace(model.info, sha256="0" * 64))
    with pytest.raises(ModelChangedError):
        JoinedClient(changed, None).predict(argon, "energy")
