"""Tests that tensors become the same systems and predictions as those of the other calls."""

from functools import partial

import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import NEON, NonFinite, Raising, Soft, WithoutDirect, loaded
from tests.service.transports.open_inference.encodings import ENCODINGS, infer, tensors_of
from tests.systems import crystal, molecule
from twinforce import Client
from twinforce_proto import (
    OUTPUTS,
    STRESSES,
    InvalidRequestError,
    InvalidSystemError,
    PredictionError,
    System,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.embedded import run_in_thread

SYSTEMS = [crystal(8, seed=1), crystal(3, seed=2), crystal(1, seed=3)]


@pytest.fixture(scope="module")
def server():
    potentials = {"soft": Soft(), "raising": Raising(), "bare": WithoutDirect(), "nan": NonFinite()}
    models = {name: loaded(potential, name) for name, potential in potentials.items()}
    with run_in_thread(free_ports(), lambda: models) as server:
        yield server


@pytest.fixture(scope="module")
def predict(server):
    with Client(server.grpc_url) as client:
        yield partial(client.predict, model="soft")


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


def joined(predictions, name):
    values = [getattr(each, name) for each in predictions]
    if name == "energy":
        return np.array(values)
    return np.stack(values) if name in STRESSES else np.concatenate(values)


def test_a_ragged_batch_has_the_predictions_of_its_systems(server, predict, encoding):
    expected = predict(SYSTEMS, OUTPUTS)
    reply = infer(server, encoding, tensors_of(*SYSTEMS), label="42")
    assert list(reply.arrays) == list(OUTPUTS)
    for name, array in reply.arrays.items():
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, joined(expected, name), rtol=0, atol=1e-10)
    assert (reply.label, reply.version) == ("42", "1")


def test_requested_outputs_choose_what_is_computed(server, predict, encoding):
    names = ["direct_forces", "energy"]
    reply = infer(server, encoding, tensors_of(*SYSTEMS), names)
    assert list(reply.arrays) == names
    expected = predict(SYSTEMS, names)
    for name in names:
        np.testing.assert_allclose(reply.arrays[name], joined(expected, name), atol=1e-10)


def test_origin_and_timings_are_parameters_of_the_reply(server, predict, encoding):
    reply = infer(server, encoding, tensors_of(*SYSTEMS), ["energy"])
    provenance = predict(SYSTEMS[0]).provenance
    assert reply.parameters["sha256"] == provenance.sha256
    assert reply.parameters["dtype"] == "float64"
    assert reply.parameters["service_version"] == provenance.service_version
    assert reply.parameters["compute_s"] > 0
    assert reply.parameters["batch_n_systems"] >= len(SYSTEMS)


def test_one_system_needs_no_numbers_of_atoms_and_no_axis_for_its_cell(server, predict, encoding):
    system = SYSTEMS[0]
    arrays = tensors_of(system, sizes=False)
    arrays |= {"cell": system.cell, "pbc": system.pbc}
    reply = infer(server, encoding, arrays, ["energy"])
    assert reply.arrays["energy"] == pytest.approx([predict(system).energy])


def test_other_datatypes_are_converted(server, predict, encoding):
    system = SYSTEMS[0]
    arrays = tensors_of(system)
    arrays["positions"] = arrays["positions"].astype(np.float32)
    arrays["cell"] = arrays["cell"].astype(np.float32)
    arrays["atomic_numbers"] = arrays["atomic_numbers"].astype(np.int64)
    arrays["n_atoms"] = arrays["n_atoms"].astype(np.int64)
    arrays |= {"charge": np.zeros(1), "spin_multiplicity": np.ones(1, np.int64)}
    rounded = System(system.atomic_numbers, arrays["positions"], arrays["cell"][0], system.pbc)
    reply = infer(server, encoding, arrays, ["energy"])
    assert reply.arrays["energy"] == pytest.approx([predict(rounded).energy], abs=1e-12)


def test_a_reply_may_be_in_single_precision(server, predict, encoding):
    parameters = {"reply_dtype": "float32"}
    reply = infer(server, encoding, tensors_of(*SYSTEMS), parameters=parameters)
    assert reply.arrays["energy"].dtype == np.float64
    forces = reply.arrays["conservative_forces"]
    assert forces.dtype == np.float32
    expected = joined(predict(SYSTEMS, OUTPUTS), "conservative_forces")
    np.testing.assert_allclose(forces, expected, atol=1e-6)


def test_by_default_systems_without_a_volume_have_no_stress(server, encoding):
    reply = infer(server, encoding, tensors_of(SYSTEMS[0], molecule(3)))
    assert list(reply.arrays) == [name for name in OUTPUTS if name not in STRESSES]
    with pytest.raises(UnsupportedOutputError, match="cell: expected vectors") as refused:
        infer(server, encoding, tensors_of(SYSTEMS[0], molecule(3)), ["conservative_stress"])
    assert refused.value.system_index == 1


def test_by_default_a_model_replies_with_what_it_has(server, encoding):
    reply = infer(server, encoding, tensors_of(*SYSTEMS), model="bare")
    assert list(reply.arrays) == ["energy", "atom_energies", "conservative_forces"]
    with pytest.raises(UnsupportedOutputError, match="has no direct_forces"):
        infer(server, encoding, tensors_of(*SYSTEMS), ["direct_forces"], model="bare")


def changed(**changes):
    """Return the tensors of two systems, with changes."""
    arrays = tensors_of(SYSTEMS[0], SYSTEMS[1]) | changes
    return {name: array for name, array in arrays.items() if array is not None}


WRONG = {
    "a missing tensor": (
        changed(positions=None),
        "inputs: expected the tensor positions, got atomic_numbers, cell, pbc, n_atoms",
    ),
    "an unknown tensor": (
        changed(velocities=np.zeros((11, 3))),
        "inputs: expected atomic_numbers, positions, n_atoms, cell, pbc, charge, "
        "spin_multiplicity, got 'velocities'",
    ),
    "a wrong datatype": (
        changed(atomic_numbers=np.full(11, 18.0)),
        "atomic_numbers: expected datatype INT32 or INT64, got 'FP64'",
    ),
    "pbc of numbers": (
        changed(pbc=np.ones((2, 3), np.int32)),
        "pbc: expected datatype BOOL, got 'INT32'",
    ),
    "a wrong shape": (
        changed(positions=np.zeros((33,))),
        "positions: expected shape [-1, 3], got shape [33]",
    ),
    "too few positions": (
        changed(positions=np.zeros((10, 3))),
        "positions: expected shape [11, 3], as there are 11 atoms, got shape [10, 3]",
    ),
    "numbers of atoms that do not add up": (
        changed(n_atoms=np.array([8, 2], np.int32)),
        "n_atoms: expected numbers that add up to 11, the length of atomic_numbers, "
        "got a sum of 10",
    ),
    "a negative number of atoms": (
        changed(n_atoms=np.array([12, -1], np.int32)),
        "n_atoms: expected numbers from 1 to 11, the length of atomic_numbers, got 12 at [0]",
    ),
    "no system": (
        changed(n_atoms=np.zeros(0, np.int32)),
        "n_atoms: expected at least one system, got none",
    ),
    "too few cells": (
        changed(cell=np.eye(3)),
        "cell: expected shape [2, 3, 3], as there are 2 systems, got shape [3, 3]",
    ),
    "too many charges": (
        changed(charge=np.zeros(3)),
        "charge: expected shape [2], as there are 2 systems, got shape [3]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_the_tensor(server, encoding, name):
    arrays, message = WRONG[name]
    with pytest.raises(InvalidRequestError) as refused:
        infer(server, encoding, arrays)
    assert refused.value.message == message
    assert refused.value.field == message.partition(":")[0]


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"positions": np.full((11, 3), 1e7)}, InvalidSystemError, "positions"),
        ({"atomic_numbers": np.full(11, 119)}, InvalidSystemError, "atomic_numbers"),
        ({"spin_multiplicity": np.array([1, 0])}, InvalidSystemError, "spin_multiplicity"),
        ({"charge": np.array([0.0, 1.0])}, InvalidSystemError, "charge"),
        (
            {"atomic_numbers": np.array([18] * 8 + [3] * 3)},
            UnsupportedElementError,
            "atomic_numbers",
        ),
    ],
)
def test_an_error_names_the_system_and_its_field(server, encoding, changes, kind, field):
    with pytest.raises(kind) as refused:
        infer(server, encoding, changed(**changes), ["energy"])
    first = 0 if changes.keys() & {"positions"} or 119 in changes.get("atomic_numbers", ()) else 1
    assert (refused.value.system_index, refused.value.field) == (first, field)


def test_errors_of_models_are_told(server, encoding):
    with pytest.raises(UnknownModelError, match="no model is called 'ice'"):
        infer(server, encoding, tensors_of(*SYSTEMS), model="ice")
    neon = crystal(2, element=NEON)
    with pytest.raises(PredictionError, match="no neon, please") as failed:
        infer(server, encoding, tensors_of(SYSTEMS[0], neon), model="raising")
    assert failed.value.system_index == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["forces"], "outputs: expected energy, atom_energies, conservative_forces, direct_forces, "
                     "conservative_stress, direct_stress, got 'forces'"),
        (["energy", "energy"], "outputs: expected each tensor once, got 'energy' twice"),
    ],
)  # fmt: skip
def test_an_error_names_the_output(server, encoding, outputs, message):
    with pytest.raises(InvalidRequestError) as refused:
        infer(server, encoding, tensors_of(*SYSTEMS), outputs)
    assert str(refused.value) == message
