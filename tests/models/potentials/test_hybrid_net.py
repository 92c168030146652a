"""The native potential keeps the contract, and its weights can be saved and loaded."""

import json

import numpy as np
import pytest
import torch

from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract.contract import check_potential
from twinforce_models.nonconservativity import direct_jacobian, nonconservativity
from twinforce_models.potentials.hybrid_net.core import HybridCore, Hyperparameters, NeighborTable
from twinforce_models.potentials.hybrid_net.potential import HybridNet, save, tabulate
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, ModelLoadError, System

SMALL = Hyperparameters(
    elements=(1, 8), cutoff=4.0, n_scalars=16, n_vectors=8, n_tensors=8, n_layers=2, n_radial=6
)


def small_net(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return HybridNet(HybridCore(SMALL).to(dtype), torch.tensor([-13.6, -432.0]))


def water(seed=0, n_molecules=8, length=6.2):
    generator = np.random.default_rng(seed)
    side = round(n_molecules ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    molecule = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    positions = (grid * length / side)[:, None] + molecule
    positions = positions.reshape(-1, 3) + generator.normal(scale=0.1, size=(3 * len(grid), 3))
    return System([8, 1, 1] * len(grid), positions, np.eye(3) * length, pbc=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_it_keeps_the_contract(dtype):
    report = check_potential(small_net(dtype))
    report.raise_if_broken()
    reported = {check.name: check.deviation for check in report.checks if check.tolerance is None}
    assert len(reported) == 3
    assert max(reported.values()) < (1e-9 if dtype == torch.float64 else 1e-5)


def test_a_wider_table_does_not_change_the_results():
    potential = small_net()
    batch = Batch.from_systems([water()], SMALL.cutoff)
    kinds = potential.kind_of_element[batch.atomic_numbers]
    table = tabulate(batch, SMALL.cutoff)
    far = torch.tensor([SMALL.cutoff, 0.0, 0.0], dtype=torch.float64).expand(batch.n_atoms, 7, 3)
    itself = torch.arange(batch.n_atoms)[:, None].expand(-1, 7)
    wider = NeighborTable(torch.cat([table[0], itself], 1), torch.cat([table[1], far], 1))
    for narrow, wide in zip(
        potential.core(kinds, table), potential.core(kinds, wider), strict=True
    ):
        torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-12)


def test_atoms_on_top_of_each_other_give_finite_predictions():
    system = System([8, 1], np.zeros((2, 3)))
    (prediction,) = predict(small_net(), [system], {"energy", "direct_forces"})
    assert np.isfinite(prediction.energy)
    assert np.isfinite(prediction.direct_forces).all()


def test_a_float32_energy_keeps_its_digits_beside_the_reference_energies():
    sharp, blunt = small_net(torch.float64), small_net(torch.float64)
    blunt.core.float()
    blunt.dtype = torch.float32
    exact, rounded = (predict(p, [water()], {"energy"})[0].energy for p in (sharp, blunt))
    assert abs(exact) > 3000
    assert rounded == pytest.approx(exact, abs=1e-5)


def test_direct_forces_of_an_untrained_network_are_not_a_gradient():
    jacobian = direct_jacobian(small_net(), water(n_molecules=1))
    assert 0.01 < nonconservativity(jacobian) < 1.0


def test_the_jacobian_is_the_derivative_of_the_direct_forces():
    potential, system = small_net(), water(n_molecules=1)
    jacobian = direct_jacobian(potential, system).numpy()
    step = np.random.default_rng(1).normal(size=system.positions.shape) * 1e-5
    ends = [system.moved(system.positions + sign * step) for sign in (1, -1)]
    plus, minus = (p.direct_forces for p in predict(potential, ends, {"direct_forces"}))
    np.testing.assert_allclose(
        jacobian @ (2 * step).ravel(), (plus - minus).ravel(), rtol=1e-4, atol=1e-12
    )


def test_it_can_be_differentiated_twice_for_training():
    potential = small_net()
    parameters = [p.requires_grad_() for p in potential.core.parameters()]
    batch = Batch.from_systems([water()], SMALL.cutoff)
    positions = batch.positions.requires_grad_()
    heads = potential.forward_heads(batch.at(positions), direct=True)
    (pull,) = torch.autograd.grad(heads.atom_energies.sum(), positions, create_graph=True)
    gradients = torch.autograd.grad(pull.square().sum(), parameters, allow_unused=True)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in gradients) > len(gradients) // 2


def write_model(potential, folder):
    """Write a model that can be loaded."""
    folder.mkdir(exist_ok=True)
    save(potential, folder)
    h = potential.core.hyperparameters
    metadata = {
        "name": "small",
        "version": "1",
        "architecture": "hybrid_net",
        "hyperparameters": {
            name: getattr(h, name) for name in Hyperparameters.__dataclass_fields__
        },
        "cutoff": h.cutoff,
        "elements": list(h.elements),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "outputs": list(OUTPUTS),
        "sha256": registry.file_sha256(folder / "model.safetensors"),
    }
    (folder / "model.json").write_text(json.dumps(metadata))


@pytest.fixture
def folder(tmp_path):
    write_model(small_net(torch.float32), tmp_path)
    return tmp_path


def test_a_saved_potential_predicts_the_same_after_loading(folder):
    loaded = registry.load(folder)
    assert loaded.info.elements == (1, 8)
    outputs = set(OUTPUTS)
    (before,) = predict(small_net(torch.float32), [water()], outputs)
    (after,) = predict(loaded.potential, [water()], outputs)
    for name in outputs:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_modified_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelLoadError, match="SHA-256"):
        registry.load(folder)
