"""Two potentials as one hybrid: each provides its part, and only if it is requested."""

import hashlib

import numpy as np
import pytest
import torch

from tests.potentials import Soft, WithoutDirect
from tests.systems import crystal, molecule
from twinforce_models.contract.contract import check_potential
from twinforce_models.nonconservativity import direct_jacobian
from twinforce_models.potentials.composed import Composed
from twinforce_models.potentials.toys.harmonic import harmonic
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.registry import load
from twinforce_proto import OUTPUTS, ModelLoadError, System, UnsupportedOutputError

LONG, SHORT = lennard_jones(cutoff=7.0), lennard_jones(cutoff=5.0, sigma=3.0, swirl=0.02)
OF_ENERGY = ("energy", "atom_energies", "conservative_forces", "conservative_stress")
OF_DIRECT = ("direct_forces", "direct_stress")
WATER = System(
    [8, 1, 1],
    [[0.0, 0.0, 0.0], [0.97, 0.0, 0.0], [-0.24, 0.94, 0.0]],
    np.eye(3) * 5.0,
    pbc=True,
)


class Counting:
    """A potential that counts its evaluations with and without an autograd graph."""

    def __init__(self, potential):
        self._potential = potential
        self.graphs = []

    def __getattr__(self, name):
        return getattr(self._potential, name)

    def forward_heads(self, batch, *, direct):
        self.graphs.append(torch.is_grad_enabled())
        return self._potential.forward_heads(batch, direct=direct)


@pytest.mark.parametrize(
    ("conservative", "direct"), [(LONG, SHORT), (SHORT, LONG)], ids=["long", "short"]
)
def test_it_keeps_the_contract_of_every_potential(conservative, direct):
    check_potential(Composed(conservative, direct)).raise_if_broken()


@pytest.mark.parametrize(
    ("conservative", "direct"), [(LONG, SHORT), (SHORT, LONG)], ids=["long", "short"]
)
def test_each_part_predicts_the_same_as_alone(conservative, direct):
    systems = [crystal(8), crystal(20, seed=1), System([18], [[0, 0, 0]], 3.8 * np.eye(3), True)]
    together = predict(Composed(conservative, direct), systems, OUTPUTS)
    for part, names in ((conservative, OF_ENERGY), (direct, OF_DIRECT)):
        for system, answer in zip(systems, together, strict=True):
            (alone,) = predict(part, [system], names)
            for name in names:
                np.testing.assert_allclose(
                    getattr(answer, name), getattr(alone, name), rtol=0, atol=1e-12
                )


def test_a_batch_filtered_to_a_shorter_cutoff_has_the_pairs_of_that_cutoff():
    from twinforce_models.batch import Batch

    systems = [crystal(20), molecule(1), crystal(8, seed=2)]
    filtered = Batch.from_systems(systems, 7.0).within(5.0)
    expected = Batch.from_systems(systems, 5.0)
    assert filtered.n_pairs_per_system == expected.n_pairs_per_system

    def listed(batch):
        return sorted(map(tuple, torch.cat([batch.pairs.T, batch.shifts], dim=1).tolist()))

    assert listed(filtered) == listed(expected)


@pytest.mark.parametrize(
    ("outputs", "conservative_graphs", "direct_graphs"),
    [
        (("direct_forces",), [], [False]),
        (("direct_forces", "direct_stress"), [], [False]),
        (("energy",), [False], []),
        (("energy", "conservative_forces"), [True], []),
        (("energy", "direct_forces"), [False], [False]),
        (("energy", "conservative_forces", "direct_forces"), [True], [False]),
    ],
)
def test_only_the_needed_parts_are_evaluated(outputs, conservative_graphs, direct_graphs):
    one, other = Counting(LONG), Counting(SHORT)
    predict(Composed(one, other), [crystal()], outputs)
    assert one.graphs == conservative_graphs
    assert other.graphs == direct_graphs


def test_the_jacobian_is_that_of_the_direct_part():
    one = Counting(LONG)
    jacobian = direct_jacobian(Composed(one, SHORT), crystal())
    np.testing.assert_allclose(jacobian, SHORT.direct_jacobian(crystal()), atol=1e-12)
    assert one.graphs == []


def test_a_composed_model_can_be_a_part_of_another():
    spec = "conservative:conservative:toy:lennard-jones+direct:toy:lennard-jones+direct:water"
    nested = load(spec, dtype="float32")
    (answer,) = predict(nested.potential, [WATER], ["direct_forces"])
    (alone,) = predict(load("water").potential, [WATER], ["direct_forces"])
    np.testing.assert_allclose(answer.direct_forces, alone.direct_forces, atol=1e-5)


def test_a_composed_model_is_loaded_from_the_specs_of_its_parts():
    spec = "conservative:water+direct:toy:lennard-jones"
    loaded = load(spec, dtype="float32", name="mix")
    water, toy = load("water"), load("toy:lennard-jones", dtype="float32")
    info = loaded.info
    assert info.name == "mix"
    assert load(spec, dtype="float32").info.name == spec
    assert info.elements == (1, 8)
    assert info.cutoff == 7.0
    assert info.outputs == OUTPUTS
    assert info.architecture == "hybrid_net+toy:lennard-jones"
    assert info.version == f"{water.info.version}+1"
    hashes = f"{water.info.sha256} {toy.info.sha256}"
    assert info.sha256 == hashlib.sha256(hashes.encode()).hexdigest()
    assert info.metadata["conservative"]["sha256"] == water.info.sha256
    assert info.metadata["conservative"]["metadata"] == water.info.metadata
    assert info.metadata["direct"]["architecture"] == "toy:lennard-jones"
    assert info.n_parameters == water.info.n_parameters
    (answer,) = predict(loaded.potential, [WATER], OUTPUTS)
    (of_water,) = predict(water.potential, [WATER], ["conservative_forces"])
    np.testing.assert_allclose(answer.conservative_forces, of_water.conservative_forces, atol=1e-5)


def test_swapping_the_parts_changes_the_hash():
    one = load("conservative:toy:lennard-jones+direct:water", dtype="float32")
    other = load("conservative:water+direct:toy:lennard-jones", dtype="float32")
    assert one.info.sha256 != other.info.sha256


@pytest.mark.parametrize(
    "spec",
    ["conservative:water", "direct:water", "conservative:+direct:water", "direct:a+direct:b"],
)
def test_a_spec_with_a_missing_part_is_refused(spec):
    with pytest.raises(ModelLoadError, match="expected conservative:A\\+direct:B"):
        load(spec)


def test_the_error_for_an_unknown_part_names_it():
    with pytest.raises(ModelLoadError, match="model 'ice' is neither"):
        load("conservative:water+direct:ice")


class OnlyHydrogen(Soft):
    elements = (1,)


class DirectOnly(Soft):
    outputs = frozenset({"direct_forces"})


REFUSED = {
    "dtype": (LONG, lennard_jones(dtype=torch.float32), "same dtype, got torch.float64 in the"),
    "device": (LONG, lennard_jones(device="meta"), "same device, got cpu .* and meta"),
    "charge": (harmonic(), LONG, "same use of the charge, got True in the conservative one"),
    "elements": (
        Soft(),
        OnlyHydrogen(),
        "got 10, 18 in the conservative one and 1 in the",
    ),
    "no direct forces": (LONG, WithoutDirect(), "the direct part .* has no direct_forces"),
    "no energy": (DirectOnly(), LONG, "has no conservative_forces, energy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_do_not_match_are_refused(case):
    conservative, direct, message = REFUSED[case]
    with pytest.raises(ModelLoadError, match=message):
        Composed(conservative, direct)


def test_it_has_a_direct_stress_only_if_its_direct_part_has_one():
    class WithoutStress(Soft):
        outputs = Soft.outputs - {"direct_stress"}

    composed = Composed(Soft(), WithoutStress())
    assert composed.outputs == set(OUTPUTS) - {"direct_stress"}
    with pytest.raises(UnsupportedOutputError, match="has no direct_stress"):
        predict(composed, [crystal()], ["direct_stress"])
