"""PETs as parts of composed hybrids: a checkpoint and an exported file, in either order."""

import hashlib

import numpy as np
import pytest
import torch

pytest.importorskip("metatrain", reason="metatrain is not installed: pip install -e '.[pet]'")

from tests import pets
from twinforce_models import registry
from twinforce_models.contract.contract import check_potential
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, ModelLoadError, System, UnsupportedElementError

OF_DIRECT = frozenset({"direct_forces", "direct_stress"})
OF_ENERGY = frozenset(OUTPUTS) - OF_DIRECT


@pytest.fixture(autouse=True, scope="module")
def without_optimizing():
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return two PETs that differ in weights, cutoff, elements and kind of file."""
    folder = tmp_path_factory.mktemp("parts")
    _, exported = pets.save_both(pets.make_pet(num_gnn_layers=1), folder, "wide")
    small = pets.make_pet(
        seed=8, elements=(1, 8), cutoff=2.6, num_neighbors_adaptive=5, num_gnn_layers=1
    )
    checkpoint, _ = pets.save_both(small, folder, "narrow")
    return checkpoint, exported


def waters():
    rng = np.random.default_rng(2)
    base = [[0.0, 0.0, 0.0], [0.97, 0.0, 0.0], [-0.24, 0.94, 0.0]]
    systems = []
    for n in (1, 2, 3):
        shift = 3.0 * np.arange(n)[:, None, None] * np.array([1.0, 0.0, 0.0])
        positions = (np.array(base) + shift).reshape(-1, 3)
        positions += rng.uniform(-0.1, 0.1, positions.shape)
        systems.append(System([8, 1, 1] * n, positions, np.diag([3.0 * n, 3.2, 3.4]), True))
    return systems


@pytest.mark.parametrize("order", [1, -1], ids=["ckpt with pt", "pt with ckpt"])
def test_each_part_predicts_the_same_as_alone(files, order):
    conservative, direct = files[::order]
    composed = registry.load(f"conservative:{conservative}+direct:{direct}")
    together = predict(composed.potential, waters(), frozenset(OUTPUTS))
    for path, names in ((conservative, OF_ENERGY), (direct, OF_DIRECT)):
        alone = predict(registry.load(path).potential, waters(), names)
        for one, other in zip(together, alone, strict=True):
            for name in names:
                np.testing.assert_allclose(
                    getattr(one, name), getattr(other, name), rtol=0, atol=1e-9, err_msg=name
                )
    gap = [each.direct_forces - each.conservative_forces for each in together]
    assert max(np.abs(each).max() for each in gap) > 1e-2


def test_it_keeps_the_contract(files):
    checkpoint, exported = files
    composed = registry.load(f"conservative:{exported}+direct:{checkpoint}")
    check_potential(composed.potential).raise_if_broken()


def test_a_composed_model_supports_the_common_elements_and_names_both_parts(files):
    checkpoint, exported = files
    one, other = registry.load(exported).info, registry.load(checkpoint).info
    spec = f"conservative:{exported}#sha256={one.sha256}+direct:{checkpoint}#sha256={other.sha256}"
    composed = registry.load(spec)
    info = composed.info
    assert info.elements == (1, 8)
    assert info.cutoff == 3.5
    assert info.architecture == "metatomic+pet"
    assert info.sha256 == hashlib.sha256(f"{one.sha256} {other.sha256}".encode()).hexdigest()
    assert info.metadata["conservative"]["sha256"] == one.sha256
    assert info.metadata["conservative"]["metadata"]["file"] == "wide.pt"
    assert info.metadata["direct"]["cutoff"] == 2.6
    assert info.metadata["direct"]["metadata"]["file"] == "narrow.ckpt"
    with pytest.raises(UnsupportedElementError, match=r"supports \(1, 8\), got 6"):
        predict(composed.potential, [System([6], [[0, 0, 0]])], {"energy"})


def test_the_hash_of_each_part_is_checked(files):
    checkpoint, exported = files
    with pytest.raises(ModelLoadError, match=r"narrow.ckpt: its SHA-256 is \w{64}, expected 00"):
        registry.load(f"conservative:{exported}+direct:{checkpoint}#sha256=00")


def test_a_pet_can_be_combined_with_a_bundled_model(files):
    checkpoint, _ = files
    composed = registry.load(f"conservative:{checkpoint}+direct:water", dtype="float32")
    water = registry.load("water").potential
    assert composed.info.cutoff == 4.5
    for one, other in zip(
        predict(composed.potential, waters(), {"energy", "direct_forces"}),
        predict(water, waters(), {"direct_forces"}),
        strict=True,
    ):
        np.testing.assert_allclose(one.direct_forces, other.direct_forces, atol=1e-4)


def test_parts_of_different_precision_or_use_of_the_charge_are_refused(files, tmp_path):
    checkpoint, exported = files
    sharp, rough = exported, f"{tmp_path}/rough.ckpt"
    torch.save(pets.make_pet(torch.float32, num_gnn_layers=1).get_checkpoint(), rough)
    with pytest.raises(ModelLoadError, match=r"same dtype, got torch.float64 in the conservative"):
        registry.load(f"conservative:{sharp}+direct:{rough}")
    assert registry.load(f"conservative:{sharp}+direct:{rough}", dtype="float64").info.outputs
    charged = f"{tmp_path}/charged.ckpt"
    conditioned = pets.make_pet(
        num_gnn_layers=1, system_conditioning=True, max_charge=2, max_spin_multiplicity=2
    )
    torch.save(conditioned.get_checkpoint(), charged)
    with pytest.raises(ModelLoadError, match="same use of the charge, got True in the conserv"):
        registry.load(f"conservative:{charged}+direct:{checkpoint}")


def test_a_part_without_direct_forces_cannot_be_the_direct_one(files, tmp_path):
    checkpoint, _ = files
    plain = f"{tmp_path}/plain.ckpt"
    torch.save(pets.make_pet(targets=("energy",), num_gnn_layers=1).get_checkpoint(), plain)
    with pytest.raises(ModelLoadError, match=r"the direct part .* has no direct_forces"):
        registry.load(f"conservative:{checkpoint}+direct:{plain}")
    served = registry.load(f"conservative:{plain}+direct:{checkpoint}").info
    assert set(served.outputs) == set(OUTPUTS)
