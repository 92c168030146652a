"""PET checkpoints and exported models agree with metatomic's own calculator."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("metatrain", reason="metatrain is not installed: pip install -e '.[pet]'")

import huggingface_hub
from metatomic.torch import NeighborListOptions

from tests import pets
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract.contract import check_potential
from twinforce_models.neighbors.search import neighbor_list
from twinforce_models.potentials.metatomic import neighbor_blocks
from twinforce_models.potentials.pet.network import fused_attention, plain_attention
from twinforce_models.prediction import predict
from twinforce_proto import (
    OUTPUTS,
    InvalidSystemError,
    ModelLoadError,
    System,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings

STRESSES = {"conservative_stress", "direct_stress"}
CONDITIONED = {"system_conditioning": True, "max_charge": 3, "max_spin_multiplicity": 4}
FORMER = {
    "transformer_type": "PostLN",
    "normalization": "LayerNorm",
    "activation": "SiLU",
    "cutoff_function": "Cosine",
    "d_node": 8,
    "num_attention_layers": 2,
    "num_neighbors_adaptive": 6,
    "adaptive_cutoff_method": "grid",
}
ARCHITECTURES = {
    "plain": {},
    "adaptive": {"num_neighbors_adaptive": 6, "featurizer_type": "residual"},
    "conditioned": CONDITIONED,
    "former": FORMER,
}


@pytest.fixture(autouse=True, scope="module")
def without_optimizing():
    """Disable optimization of TorchScript, which takes longer than all evaluations here."""
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the two files of each architecture."""
    folder = tmp_path_factory.mktemp("pets")
    return {
        name: pets.save_both(pets.make_pet(**hypers), folder, name)
        for name, hypers in ARCHITECTURES.items()
    }


def charged(system):
    return System(
        system.atomic_numbers, system.positions, system.cell, system.pbc, -2.0, spin_multiplicity=3
    )


def assert_same(prediction, expected, outputs):
    for name in outputs:
        got, want = getattr(prediction, name), getattr(expected, name)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_batched_predictions_match_metatomic_for_each_system(saved, architecture, suffix):
    checkpoint, exported = saved[architecture]
    path = checkpoint if suffix == ".ckpt" else exported
    potential = registry.load(path).potential
    systems = pets.systems()
    if architecture == "conditioned":
        systems = [charged(system) if i % 2 else system for i, system in enumerate(systems)]
    references = [pets.reference(exported, system) for system in systems]
    everything = frozenset(OUTPUTS)
    for prediction, expected in zip(
        predict(potential, systems, everything - STRESSES), references, strict=True
    ):
        assert_same(prediction, expected, everything - STRESSES)
    periodic = [(s, r) for s, r in zip(systems, references, strict=True) if s.pbc.all()]
    for prediction, (_, expected) in zip(
        predict(potential, [system for system, _ in periodic], everything), periodic, strict=True
    ):
        assert_same(prediction, expected, everything)
        assert np.abs(expected.direct_forces - expected.conservative_forces).max() > 1e-2
        assert np.abs(expected.direct_stress).max() > 1e-4


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_direct_outputs_are_the_same_with_and_without_the_energy(saved, suffix):
    checkpoint, exported = saved["adaptive"]
    potential = registry.load(checkpoint if suffix == ".ckpt" else exported).potential
    periodic = [system for system in pets.systems() if system.pbc.all()]
    outputs = {"direct_forces", "direct_stress"}
    beside = predict(potential, periodic, {*outputs, "energy", "conservative_forces"})
    for alone, expected in zip(predict(potential, periodic, outputs), beside, strict=True):
        assert alone.energy is None
        for name in outputs:
            np.testing.assert_allclose(getattr(alone, name), getattr(expected, name), atol=1e-12)


def test_both_implementations_of_attention_agree():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 7, 2, 5, 4, dtype=torch.float64)
    log_weights = torch.rand(7, 5, dtype=torch.float64).clamp(min=1e-15).log()
    plain = plain_attention(query, key, value, log_weights)
    for n_atoms_at_once in (7, 3):
        fused = fused_attention(query, key, value, log_weights, n_atoms_at_once)
        torch.testing.assert_close(fused, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_predictions_on_a_gpu_match_the_cpu(saved, architecture):
    systems = [system for system in pets.systems() if system.pbc.all()]
    for path in saved[architecture]:
        here, there = (
            predict(registry.load(path, device=device).potential, systems, frozenset(OUTPUTS))
            for device in ("cpu", "cuda")
        )
        for one, other in zip(here, there, strict=True):
            assert_same(other, one, OUTPUTS)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_both_keep_the_contract(saved, suffix):
    checkpoint, exported = saved["adaptive"]
    path = checkpoint if suffix == ".ckpt" else exported
    check_potential(registry.load(path).potential).raise_if_broken()


def test_all_eight_boundary_conditions_agree(saved):
    checkpoint, exported = saved["plain"]
    positions = pets.systems()[-1].positions + 2.5
    numbers, cell = pets.systems()[-1].atomic_numbers, pets.systems()[-1].cell
    systems = [
        System(numbers, positions, cell, pbc) for pbc in itertools.product([False, True], repeat=3)
    ]
    outputs = frozenset(OUTPUTS) - STRESSES
    for path in (checkpoint, exported):
        predictions = predict(registry.load(path).potential, systems, outputs)
        for prediction, system in zip(predictions, systems, strict=True):
            assert_same(prediction, pets.reference(exported, system), outputs)


def test_single_precision_keeps_the_digits_of_a_large_energy(tmp_path):
    pet = pets.make_pet(torch.float32)
    checkpoint, exported = pets.save_both(pet, tmp_path)
    for path in (checkpoint, exported):
        model = registry.load(path)
        assert model.info.dtype == "float32"
        system = pets.systems()[-1]
        (prediction,) = predict(model.potential, [system], frozenset(OUTPUTS))
        assert_same(prediction, pets.reference(exported, system), OUTPUTS)
    sharp = registry.load(checkpoint, dtype="float64").potential
    (exact,) = predict(sharp, [system], {"energy"})
    (rounded,) = predict(registry.load(checkpoint).potential, [system], {"energy"})
    assert rounded.energy == pytest.approx(exact.energy, abs=1e-5)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_a_variant_is_chosen_by_name(tmp_path, suffix):
    pet = pets.make_pet(
        targets=("energy/pbe", "energy/scan", "non_conservative_force/scan"), num_gnn_layers=1
    )
    checkpoint, exported = pets.save_both(pet, tmp_path)
    path = checkpoint if suffix == ".ckpt" else exported
    system = pets.systems()[1]
    with pytest.raises(ModelLoadError, match="several energies, name one of them: pbe, scan"):
        registry.load(path)
    with pytest.raises(ModelLoadError, match="pbe, scan, got 'b3lyp'"):
        registry.load(f"{path}#variant=b3lyp")
    scan = registry.load(f"{path}#variant=scan").potential
    assert scan.outputs == frozenset(OUTPUTS) - {"direct_stress"}
    (prediction,) = predict(scan, [system], {"energy", "direct_forces"})
    assert_same(
        prediction,
        pets.reference(exported, system, "scan", direct="forces"),
        ("energy", "direct_forces"),
    )
    pbe = registry.load(f"{path}#variant=pbe").potential
    assert "direct_forces" not in pbe.outputs
    (other,) = predict(pbe, [system], {"energy"})
    assert abs(other.energy - prediction.energy) > 0.1


def test_a_direct_stress_variant_matches_the_exported_file(tmp_path):
    names = [f"{name}/scan" for name in ("energy", *pets.DIRECT)]
    files = pets.save_both(pets.make_pet(targets=names, num_gnn_layers=1), tmp_path)
    periodic = [system for system in pets.systems() if system.pbc.all()]
    one, other = (
        predict(registry.load(path).potential, periodic, frozenset(OUTPUTS)) for path in files
    )
    for mine, theirs in zip(one, other, strict=True):
        assert_same(mine, theirs, OUTPUTS)
        assert np.abs(theirs.direct_stress).max() > 1e-2


@pytest.mark.filterwarnings("ignore:the 'non_conservative_forces' output name is deprecated")
def test_the_former_name_of_direct_forces_is_supported(tmp_path):
    pet = pets.make_pet(targets=("energy", "non_conservative_forces"), num_gnn_layers=1)
    system = pets.systems()[1]
    for path in pets.save_both(pet, tmp_path):
        (prediction,) = predict(registry.load(path).potential, [system], {"direct_forces"})
        np.testing.assert_allclose(prediction.direct_forces.sum(axis=0), 0, atol=1e-12)
        assert np.abs(prediction.direct_forces).max() > 1e-2


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_missing_outputs_are_refused(tmp_path, suffix):
    pet = pets.make_pet(targets=("energy",), num_gnn_layers=1)
    checkpoint, exported = pets.save_both(pet, tmp_path)
    model = registry.load(checkpoint if suffix == ".ckpt" else exported)
    assert set(model.info.outputs) == set(OUTPUTS) - {"direct_forces", "direct_stress"}
    with pytest.raises(UnsupportedOutputError, match="has no direct_forces"):
        predict(model.potential, [pets.systems()[0]], {"direct_forces"})
    with pytest.raises(UnsupportedElementError, match=r"supports \(1, 6, 8.*got 18"):
        predict(model.potential, [System([18], [[0, 0, 0]])], {"energy"})


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_an_unsupported_charge_is_an_error_of_its_system(saved, suffix):
    checkpoint, exported = saved["conditioned"]
    model = registry.load(checkpoint if suffix == ".ckpt" else exported)
    assert model.info.uses_charge
    assert model.info.uses_spin
    good, bad = pets.systems()[1], System([8], [[0, 0, 0]], charge=0.5)
    expected = r"systems\[1\]: charge: expected a whole number for this model, got 0.5"
    with pytest.raises(InvalidSystemError, match=expected):
        predict(model.potential, [good, bad], {"energy"})


def test_the_error_for_an_unsupported_charge_names_the_range(saved):
    potential = registry.load(saved["conditioned"][0]).potential
    bad = System([8], [[0, 0, 0]], charge=4)
    with pytest.raises(InvalidSystemError, match=r"charge: expected -3 to 3 for this model, got 4"):
        predict(potential, [bad], {"energy"})


@pytest.mark.parametrize("is_full", [True, False])
def test_neighbor_blocks_hold_every_pair_once_or_twice(is_full):
    systems = pets.systems()
    batch = Batch.from_systems(systems, 4.0)
    options = NeighborListOptions(cutoff=3.0, full_list=is_full, strict=True)
    for system, block in zip(systems, neighbor_blocks(batch, options), strict=True):
        lengths = block.values.squeeze(-1).norm(dim=1).sort().values
        own = Batch.from_systems([system], 3.0).displacements().norm(dim=1).sort().values
        torch.testing.assert_close(lengths, own if is_full else own[::2])
        rows = {tuple(row) for row in block.samples.values.tolist()}
        reverse = {(j, i, -a, -b, -c) for i, j, a, b, c in rows}
        assert len(rows) == len(lengths)
        assert (rows == reverse) if is_full else not rows & reverse
    assert sum(neighbor_list(systems, 3.0).n_pairs_per_system) > 100


def test_a_checkpoint_of_an_uncertainty_model_is_loaded_as_the_pet_inside(saved, tmp_path):
    checkpoint = torch.load(saved["plain"][0], weights_only=False)
    wrapped = {"architecture_name": "llpr", "wrapped_model_checkpoint": checkpoint}
    torch.save(wrapped, tmp_path / "llpr.ckpt")
    inside, plain = (
        registry.load(p).potential for p in (tmp_path / "llpr.ckpt", saved["plain"][0])
    )
    system = pets.systems()[1]
    (one,), (other,) = (predict(p, [system], {"direct_forces"}) for p in (inside, plain))
    np.testing.assert_array_equal(one.direct_forces, other.direct_forces)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_could_run_code_is_refused_without_running_it(saved, tmp_path):
    checkpoint = torch.load(saved["plain"][0], weights_only=False)
    torch.save(checkpoint | {"extra": Payload(tmp_path / "owned")}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.Path.*--trust-pickles"):
        registry.load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "owned").exists()
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"architecture_name": "pet"}, protocol=2))
    with pytest.raises(ModelLoadError):
        registry.load(tmp_path / "plain.ckpt")


def test_files_that_are_not_pet_checkpoints_are_refused(saved, tmp_path):
    checkpoint, exported = saved["plain"]
    (tmp_path / "note.pt").write_text("no model")
    with pytest.raises(ModelLoadError, match="not an exported metatomic model"):
        registry.load(tmp_path / "note.pt")
    torch.save({"architecture_name": "gap"}, tmp_path / "gap.ckpt")
    with pytest.raises(ModelLoadError, match="expected the architecture 'pet', got 'gap'"):
        registry.load(tmp_path / "gap.ckpt")
    with pytest.raises(ModelLoadError, match="there is no such file"):
        registry.load(tmp_path / "gone.ckpt")
    with pytest.raises(ModelLoadError, match=r"its SHA-256 is \w+, expected 00"):
        registry.load(f"{checkpoint}#sha256=00")
    with pytest.raises(
        ModelLoadError, match="expected sha256 or variant after #, for the family pet, got size"
    ):
        registry.load(f"{checkpoint}#size=4")
    with pytest.raises(ModelLoadError, match="exported in float64, got float32"):
        registry.load(exported, dtype="float32")
    known = registry.file_sha256(exported)
    assert registry.load(f"{exported}#sha256={known}").info.sha256 == known


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point huggingface_hub at an empty cache and disable its network access."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(folder), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def put_into_cache(cache, path, sha256):
    """Store a file in the cache like a download of pet-mad-s 1.5.0."""
    repository = cache / "models--lab-cosmo--upet"
    blob = repository / "blobs" / sha256
    link = repository / "snapshots" / "c0ffee" / "models" / "pet-mad-s-v1.5.0.ckpt"
    for folder in (blob.parent, link.parent, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    blob.write_bytes(path.read_bytes())
    link.symlink_to(blob)


def test_a_published_model_in_the_cache_needs_no_network(cache, saved):
    checkpoint, _ = saved["plain"]
    put_into_cache(cache, checkpoint, registry.file_sha256(checkpoint))
    info = registry.load("upet:pet-mad-s@1.5.0").info
    assert (info.name, info.version) == ("pet-mad-s-v1.5.0", "1.5.0")
    assert info.sha256 == registry.file_sha256(checkpoint)


def test_a_published_model_is_checked_against_a_known_hash(cache, saved):
    checkpoint, _ = saved["plain"]
    sha256 = registry.file_sha256(checkpoint)
    put_into_cache(cache, checkpoint, sha256)
    assert registry.load(f"upet:pet-mad-s@1.5.0#sha256={sha256}").info.version == "1.5.0"
    with pytest.raises(ModelLoadError, match=rf"its SHA-256 is {sha256}, expected 00"):
        registry.load("upet:pet-mad-s@1.5.0#sha256=00")


def test_a_damaged_published_model_is_refused(cache, saved):
    put_into_cache(cache, saved["plain"][0], "ab" * 32)
    with pytest.raises(ModelLoadError, match=r"its SHA-256 is \w{64}, expected abab"):
        registry.load("upet:pet-mad-s@1.5.0")


def test_the_error_without_a_network_explains_how_to_provide_the_file(cache):
    with pytest.raises(ModelLoadError) as error:
        registry.load("upet:pet-mad-s@1.5.0")
    url = "https://huggingface.co/lab-cosmo/upet/resolve/main/models/pet-mad-s-v1.5.0.ckpt"
    for part in (str(cache), url, "models--lab-cosmo--upet"):
        assert part in str(error.value)
    with pytest.raises(ModelLoadError, match="expected upet:NAME-SIZE@VERSION"):
        registry.load("upet:pet-mad-s")


def test_a_service_evaluates_both_files_for_multiple_time_stepping(saved):
    checkpoint, exported = saved["plain"]
    settings = Settings(
        rest_port=0,
        grpc_port=0,
        n_threads=1,
        water=False,
        model={"checkpoint": str(checkpoint), "exported": str(exported)},
    )
    systems = [system for system in pets.systems() if system.pbc.all()][:1]
    outputs = ("direct_forces", "hybrid")
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        for system, model in itertools.product(systems, ("checkpoint", "exported")):
            expected = pets.reference(exported, system)
            with client.stream(model) as stream:
                inner, outer = (stream.predict(system, each) for each in outputs)
            assert inner.conservative_forces is None
            assert_same(inner, expected, ("direct_forces",))
            assert_same(outer, expected, ("energy", "conservative_forces", "direct_forces"))
