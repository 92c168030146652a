"""Tests of labels for many structures at once."""

import asyncio

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import CalculatorError

from tests.clients.serving import ARGON, serve
from tests.potentials import Soft, loaded
from tests.systems import molecule
from twinforce import AsyncClient, Client, InvalidSystemError, UnsupportedElementError
from twinforce.ase import TwinForceCalculator


def argon(n_structures):
    cell = 9.0 * np.eye(3)
    return [
        Atoms([ARGON] * 6, molecule(6, seed).positions, cell=cell, pbc=True, info={"seed": seed})
        for seed in range(n_structures)
    ]


def labeled(server, transport, all_atoms, *more):
    """Label atoms with the blocking client or with that for asyncio."""
    if transport == "grpc":
        with Client(server.grpc_url) as client:
            return client.predict_atoms(all_atoms, *more)

    async def label():
        async with AsyncClient(server.rest_url) as client:
            return await client.predict_atoms(all_atoms, *more)

    return asyncio.run(label())


def test_copies_have_what_a_calculator_finds(server, transport, tmp_path):
    structures = argon(3)
    found = labeled(server, transport, iter(structures), ["hybrid", "conservative_stress"])
    with TwinForceCalculator(server.grpc_url, both_forces=True) as calculator:
        for given, label in zip(structures, found, strict=True):
            assert given.calc is None
            assert set(given.info) == {"seed"}
            alone = given.copy()
            alone.calc = calculator
            np.testing.assert_allclose(label.get_forces(), alone.get_forces(), atol=1e-12)
            np.testing.assert_allclose(label.get_stress(), alone.get_stress(), atol=1e-12)
            assert label.get_potential_energy() == pytest.approx(alone.get_potential_energy())
            direct = calculator.prediction.direct_forces
            np.testing.assert_allclose(label.arrays["direct_forces"], direct, atol=1e-12)
            assert label.info["twinforce_model"] == "lj"
            assert label.info["seed"] == given.info["seed"]
    ase.io.write(tmp_path / "all.extxyz", found)
    again = ase.io.read(tmp_path / "all.extxyz", ":")
    assert [each.info["seed"] for each in again] == [0, 1, 2]
    np.testing.assert_allclose(again[2].arrays["direct_forces"], direct, atol=1e-7)


def test_direct_forces_alone_are_the_forces(server, transport):
    (label,) = labeled(server, transport, argon(1), ["energy", "direct_forces"])
    np.testing.assert_array_equal(label.get_forces(), label.arrays["direct_forces"])


def test_more_structures_than_fit_in_a_request_are_labeled_in_order(server, transport):
    structures = argon(4) * 75
    found = labeled(server, transport, structures, "energy")
    energies = [label.get_potential_energy() for label in found]
    assert len(set(np.round(energies[:4], 6))) == 4
    np.testing.assert_allclose(energies, energies[:4] * 75, atol=1e-9)


def test_an_error_names_the_structure_among_all_of_them(transport):
    structures = argon(300)
    structures[281].numbers[2] = 92
    with (
        serve({"soft": loaded(Soft())}) as server,
        pytest.raises(UnsupportedElementError, match=r"systems\[281\]: atomic_numbers") as caught,
    ):
        labeled(server, transport, structures, "energy")
    assert caught.value.system_index == 281
    assert isinstance(caught.value, CalculatorError)


def test_malformed_structures_and_others_are_refused(server, transport):
    structures = argon(2)
    structures[1].positions[0] = np.inf
    with pytest.raises(InvalidSystemError) as caught:
        labeled(server, transport, structures)
    assert caught.value.system_index == 1
    with pytest.raises(TypeError, match=r"all_atoms: expected a list of Atoms, got Atoms"):
        labeled(server, transport, structures[0])
    with pytest.raises(TypeError, match=r"all_atoms\[1\]: expected Atoms of ASE, got int"):
        labeled(server, transport, [structures[0], 3])
    assert labeled(server, transport, []) == []
