"""Predictions of a potential."""

import numpy as np
import pytest
import torch

from tests.systems import crystal, molecule
from twinforce_models.batch import Batch
from twinforce_models.potential import Heads
from twinforce_models.potentials.toys.harmonic import harmonic
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import (
    OUTPUTS,
    PredictionError,
    System,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_proto.model_info import check_supported

PERIODIC_OUTPUTS = frozenset(OUTPUTS)
OPEN_OUTPUTS = PERIODIC_OUTPUTS - {"conservative_stress", "direct_stress"}


class Watched:
    """A real potential that records its forward passes."""

    uses_charge = uses_spin = False

    def __init__(self, potential=None, outputs=PERIODIC_OUTPUTS, elements=(10, 18)):
        self.potential = potential or lennard_jones()
        self.outputs = frozenset(outputs)
        self.elements = elements
        self.cutoff, self.dtype = self.potential.cutoff, self.potential.dtype
        self.device = self.potential.device
        self.passes = []

    def forward_heads(self, batch, *, direct):
        heads = self.potential.forward_heads(batch, direct=direct)
        self.passes.append((direct, heads.atom_energies.requires_grad))
        return heads


class NetForce(Watched):
    """Has a direct force along x on each atom: the size of its system plus the atom's index."""

    def forward_heads(self, batch, **_):
        sizes = batch.to_atoms(torch.tensor(batch.n_atoms_per_system, dtype=batch.positions.dtype))
        forces = torch.zeros_like(batch.positions)
        forces[:, 0] = sizes + torch.arange(batch.n_atoms)
        return Heads(torch.zeros_like(sizes), forces)


def test_both_forces_come_from_one_forward_pass():
    potential = Watched()
    predict(potential, [crystal()], {"energy", "conservative_forces", "direct_forces"})
    assert potential.passes == [(True, True)]


def test_all_outputs_together_come_from_one_forward_pass():
    potential = Watched()
    (prediction,) = predict(potential, [crystal()], OUTPUTS)
    assert potential.passes == [(True, True)]
    assert all(getattr(prediction, name) is not None for name in OUTPUTS)


@pytest.mark.parametrize("outputs", [["direct_forces"], ["direct_stress", "energy"]])
def test_direct_outputs_build_no_graph_even_if_the_caller_enables_grad(outputs):
    potential = Watched()
    with torch.enable_grad():
        predict(potential, [crystal()], outputs)
    assert potential.passes == [(True, False)]


def test_the_energy_alone_builds_no_graph_and_no_direct_head():
    potential = Watched()
    predict(potential, [molecule()], ["energy", "atom_energies"])
    assert potential.passes == [(False, False)]


def test_conservative_forces_are_computed_even_if_the_caller_disables_grad():
    potential = Watched()
    with torch.no_grad():
        (prediction,) = predict(potential, [molecule()], ["conservative_forces"])
    assert potential.passes == [(False, True)]
    assert np.abs(prediction.conservative_forces).max() > 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_only_the_requested_outputs_are_set(output):
    (prediction,) = predict(lennard_jones(), [crystal()], [output])
    given = {name for name in OUTPUTS if getattr(prediction, name) is not None}
    assert given == {output}


def test_predictions_have_the_types_and_shapes_of_the_contract():
    for prediction in predict(
        lennard_jones(dtype=torch.float32), [crystal(4), crystal(5)], OUTPUTS
    ):
        n_atoms = len(prediction.atom_energies)
        assert isinstance(prediction.energy, float)
        assert prediction.atom_energies.dtype == np.float64
        assert prediction.conservative_forces.shape == (n_atoms, 3)
        assert prediction.direct_forces.shape == (n_atoms, 3)
        assert prediction.conservative_stress.shape == prediction.direct_stress.shape == (3, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_predictions_in_a_batch_equal_predictions_alone(dtype):
    potential = lennard_jones(dtype=dtype)
    systems = [crystal(8), molecule(1), molecule(5), crystal(3), molecule(2, seed=4)]
    together = predict(potential, systems, OPEN_OUTPUTS)
    for system, prediction in zip(systems, together, strict=True):
        (alone,) = predict(potential, [system], OPEN_OUTPUTS)
        for name in OPEN_OUTPUTS:
            np.testing.assert_allclose(
                getattr(prediction, name), getattr(alone, name), rtol=1e-6, atol=1e-12
            )


def test_modifying_one_prediction_does_not_change_another():
    first, second = predict(lennard_jones(), [molecule(), molecule()], ["conservative_forces"])
    kept = second.conservative_forces.copy()
    first.conservative_forces[:] = np.nan
    np.testing.assert_array_equal(second.conservative_forces, kept)


def test_the_net_direct_force_is_removed_per_system():
    potential = NetForce()
    predictions = predict(potential, [molecule(2), molecule(5)], ["direct_forces"])
    for prediction, n_atoms in zip(predictions, (2, 5), strict=True):
        np.testing.assert_allclose(prediction.direct_forces.sum(axis=0), 0.0, atol=1e-12)
        expected = np.arange(n_atoms) - (n_atoms - 1) / 2
        np.testing.assert_allclose(prediction.direct_forces[:, 0], expected, atol=1e-12)


def test_a_lone_atom_has_no_force_and_no_energy():
    (prediction,) = predict(lennard_jones(), [molecule(1)], OPEN_OUTPUTS)
    assert prediction.energy == 0.0
    np.testing.assert_array_equal(prediction.conservative_forces, np.zeros((1, 3)))
    np.testing.assert_array_equal(prediction.direct_forces, np.zeros((1, 3)))


def test_an_empty_list_of_systems_has_no_predictions():
    assert predict(lennard_jones(), [], ["energy"]) == []


def test_forces_are_zero_if_the_energy_does_not_depend_on_positions():
    class Flat(Watched):
        def forward_heads(self, batch, **_):
            return Heads(torch.ones(batch.n_atoms, dtype=torch.float64))

    outputs = ["energy", "conservative_forces", "conservative_stress"]
    (prediction,) = predict(Flat(), [crystal(8)], outputs)
    assert prediction.energy == 8.0
    assert not prediction.conservative_forces.any()
    assert not prediction.conservative_stress.any()


def test_the_energy_of_a_float32_model_is_summed_in_float64():
    class Heavy(Watched):
        def forward_heads(self, batch, **_):
            return Heads(torch.full((batch.n_atoms,), -470.1, dtype=torch.float32))

    (prediction,) = predict(Heavy(lennard_jones(dtype=torch.float32)), [molecule(300)], ["energy"])
    assert prediction.energy == pytest.approx(300 * float(np.float32(-470.1)), rel=1e-14)


def test_missing_outputs_are_refused_with_the_available_ones():
    potential = Watched(outputs={"energy", "conservative_forces"})
    with pytest.raises(UnsupportedOutputError, match=r"no direct_forces.*energy, conservative"):
        predict(potential, [molecule()], ["energy", "direct_forces"])
    assert potential.passes == []


def test_a_declared_output_that_is_not_returned_raises_a_prediction_error():
    class Forgetful(Watched):
        def forward_heads(self, batch, *, direct):
            return Heads(super().forward_heads(batch, direct=direct).atom_energies)

    with pytest.raises(PredictionError, match="direct_forces"):
        predict(Forgetful(), [molecule()], ["direct_forces"])


@pytest.mark.parametrize("output", ["conservative_stress", "direct_stress"])
@pytest.mark.parametrize(
    ("cell", "pbc", "got"),
    [
        (None, False, "no cell"),
        (np.diag([9.0, 9.0, 0.0]), [True, True, False], r"\[\[9.0, 0.0, 0.0\], "),
        (np.diag([9.0, 9.0, 1e-6]), [True, True, False], r"\[\[9.0, 0.0, 0.0\], "),
        ([[9, 0, 0], [0, 9, 0], [9e4, 9e4, 1e-2]], [True, True, False], r"\[\[9.0, 0.0, 0.0\], "),
    ],
    ids=["none", "flat", "too thin", "nearly singular"],
)
def test_a_stress_of_a_system_without_a_volume_is_refused(output, cell, pbc, got):
    flat = System([18], np.zeros((1, 3)), cell, pbc)
    text = rf"^systems\[2\]: cell: expected vectors, .* at least 0.001 Å³, .* per volume, got {got}"
    with pytest.raises(UnsupportedOutputError, match=text) as caught:
        predict(lennard_jones(), [crystal(), crystal(), flat], [output])
    assert (caught.value.system_index, caught.value.field) == (2, "cell")


def test_an_unsupported_element_is_refused_with_system_and_elements():
    with pytest.raises(UnsupportedElementError, match=r"supports \(10, 18\), got 26") as caught:
        predict(Watched(), [molecule(), molecule(element=26)], ["energy"])
    assert caught.value.system_index == 1
    assert caught.value.field == "atomic_numbers"


def test_support_can_be_checked_without_an_evaluation():
    potential = Watched()
    check_supported(potential, [crystal()], PERIODIC_OUTPUTS)
    with pytest.raises(UnsupportedElementError):
        check_supported(potential, [molecule(element=1)], frozenset({"energy"}))
    assert potential.passes == []


def test_atomic_types_that_are_not_elements_do_not_affect_the_supported_elements():
    potential = Watched(elements=(-1, 0, 18, 119, 300))
    predict(potential, [molecule()], ["energy"])
    with pytest.raises(UnsupportedElementError, match="got 118"):
        predict(potential, [molecule(element=118)], ["energy"])


def test_a_differentiable_prediction_reaches_the_positions_twice():
    potential, batch = lennard_jones(), Batch.from_systems([crystal()], 7.0)
    positions = batch.positions.clone().requires_grad_()
    outputs = ["direct_forces"]
    prediction = predict_batch(potential, batch.at(positions), outputs, differentiable=True)
    (gradient,) = torch.autograd.grad(prediction.direct_forces[0, 0], positions)
    assert gradient.abs().max() > 0


def test_a_differentiable_conservative_force_reaches_the_parameters():
    class Scaled(Watched):
        scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward_heads(self, batch, *, direct):
            heads = super().forward_heads(batch, direct=direct)
            return Heads(heads.atom_energies * self.scale)

    potential, batch = Scaled(), Batch.from_systems([crystal()], 7.0)
    outputs = ["conservative_forces", "conservative_stress"]
    prediction = predict_batch(potential, batch, outputs, differentiable=True)
    loss = prediction.conservative_forces.square().sum()
    (gradient,) = torch.autograd.grad(loss, potential.scale)
    torch.testing.assert_close(gradient, loss.detach())  # quadratic in the scale, which is 2
    assert predict_batch(potential, batch, outputs).conservative_stress.requires_grad is False


def test_tension_is_positive_and_compression_negative():
    cell = np.eye(3) * 3.4 * 2 ** (1 / 6)
    for factor, sign in ((1.05, 1), (0.95, -1)):
        atom = System([18], np.zeros((1, 3)), cell * factor, True)
        (prediction,) = predict(lennard_jones(cutoff=5.5), [atom], ["conservative_stress"])
        assert np.sign(np.trace(prediction.conservative_stress)) == sign


def test_stress_of_a_left_handed_cell_is_that_of_its_right_handed_twin():
    right = crystal(4)
    left = System(right.atomic_numbers, right.positions, right.cell[[1, 0, 2]], True)
    one, other = predict(lennard_jones(), [right, left], ["conservative_stress", "direct_stress"])
    np.testing.assert_allclose(one.conservative_stress, other.conservative_stress, atol=1e-15)
    np.testing.assert_allclose(one.direct_stress, other.direct_stress, atol=1e-15)


def test_charge_and_spin_reach_a_potential_that_uses_them():
    bare = molecule(3)
    dressed = System(bare.atomic_numbers, bare.positions, charge=2.0, spin_multiplicity=3)
    plain, charged = predict(harmonic(), [bare, dressed], ["energy"])
    assert charged.energy - plain.energy == pytest.approx(1.0 * 2.0**2 + 0.25 * 2)
    assert harmonic().uses_charge
    assert harmonic().uses_spin
