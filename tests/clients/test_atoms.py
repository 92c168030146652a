"""Clients take the atoms of ASE, and of whatever looks like them, wherever they take systems."""

import asyncio

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from tests.systems import molecule
from twinforce import AsyncClient, Client, System


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def atoms_of(system):
    return Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=system.pbc)


SYSTEMS = [molecule(n, seed=n) for n in (2, 3, 4)]
ATOMS = [atoms_of(system) for system in SYSTEMS]


class Likeness:
    """An object that has what the atoms of ASE have, and is not a class of ASE."""

    def __init__(self, atoms):
        self.numbers, self.positions, self.cell = atoms.numbers, atoms.positions, atoms.cell.array
        self.pbc, self.info = atoms.pbc, {}


@pytest.mark.parametrize(
    "many",
    [list, tuple, iter, lambda atoms: (each for each in atoms), lambda atoms: map(Likeness, atoms)],
    ids=["list", "tuple", "iterator", "generator", "likenesses"],
)
def test_many_atoms_are_evaluated_in_order(client, many):
    expected = [each.energy for each in client.predict(SYSTEMS)]
    assert [each.energy for each in client.predict(many(ATOMS))] == expected
    mixed = client.predict([ATOMS[0], SYSTEMS[1], ATOMS[2]])
    assert [each.energy for each in mixed] == expected


def test_atoms_alone_give_one_prediction(client):
    expected = client.predict(SYSTEMS[0])
    prediction = client.predict(ATOMS[0])
    assert prediction.energy == expected.energy
    np.testing.assert_array_equal(prediction.conservative_forces, expected.conservative_forces)


def test_streams_runs_and_lambda_take_atoms(client):
    atoms, system = ATOMS[1], SYSTEMS[1]
    with client.stream() as stream:
        assert stream.predict(atoms).energy == pytest.approx(client.predict(system).energy)
    measured = client.nonconservativity(atoms, output="conservative_forces")
    expected = client.nonconservativity(system, output="conservative_forces")
    assert measured.jacobian_norm == pytest.approx(expected.jacobian_norm)
    fixed = atoms.copy()
    fixed.set_constraint(FixAtoms([0]))
    *_, last = client.relax(fixed, force_kind="conservative", fmax=1e-9, max_steps=5)
    np.testing.assert_array_equal(last.positions[0], atoms.positions[0])
    assert np.abs(last.positions - atoms.positions).max() > 1e-6


def test_asyncio_clients_take_atoms(url):
    async def predict():
        async with AsyncClient(url) as client:
            several = await client.predict(each for each in ATOMS)
            async with client.stream() as stream:
                return [each.energy for each in several], (await stream.predict(ATOMS[0])).energy

    with Client(url) as client:
        expected = [each.energy for each in client.predict(SYSTEMS)]
    several, alone = asyncio.run(predict())
    assert several == expected
    assert alone == pytest.approx(expected[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, r"systems: expected a System or the Atoms of ASE, or a list of them, got int"),
        ([ATOMS[0], "Ar"], r"systems\[1\]: expected a System or the Atoms of ASE, got str"),
        (None, r"systems: expected .* got NoneType"),
    ],
)
def test_anything_else_is_refused_by_name(client, value, message):
    with pytest.raises(TypeError, match=message):
        client.predict(value)


def test_the_charge_of_atoms_is_sent(client):
    atoms = ATOMS[0].copy()
    atoms.info["charge"] = 1
    charged = System(atoms.numbers, atoms.positions, charge=1.0)
    messages = []
    for each in (atoms, charged):
        with pytest.raises(Exception, match="charge") as error:
            client.predict(each)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
