"""Models are found, checked and loaded, or refused with a reason."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.systems import molecule
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.registry import bundled_models, file_sha256, load, toy_models
from twinforce_proto import OUTPUTS, ModelLoadError


def load_argon(directory, metadata, device, dtype):
    """Read Lennard-Jones parameters: the loader of the third party `argon`."""
    weights = load_file(directory / "model.safetensors")
    epsilon, sigma = weights["parameters"].tolist()
    return lennard_jones(epsilon, sigma, metadata["cutoff"], dtype=dtype, device=device)


def load_badly(*_):
    """Raise an error, as the loader of a third party might."""
    raise KeyError("layers.0.weight")


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a package with the architectures `argon`, `bad` and `gone`."""
    site = tmp_path / "site"
    info = site / "argon_potentials-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: argon-potentials\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[twinforce.potentials]\n"
        f"argon = {__name__}:load_argon\n"
        f"bad = {__name__}:load_badly\n"
        "gone = no_such_module:load\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    return tmp_path


@pytest.fixture
def directory(third_party):
    path = third_party / "argon-lj"
    path.mkdir()
    save_file({"parameters": torch.tensor([0.0104, 3.4])}, path / "model.safetensors")
    (path / "CARD.md").write_text("# Argon\n")
    write_metadata(path)
    return path


def write_metadata(path, **changes):
    metadata = {
        "name": "argon",
        "version": "2.1",
        "architecture": "argon",
        "hyperparameters": {},
        "cutoff": 6.0,
        "elements": list(range(1, 119)),
        "dtype": "float32",
        "outputs": list(OUTPUTS),
        "units": {},
        "errors": {"energy": 1.5},
        "training_data": [],
        "recipe": "none",
        "recipe_sha256": "",
        "sha256": file_sha256(path / "model.safetensors"),
        "licence": "BSD-3-Clause",
        "n_parameters": 2,
    }
    kept = {key: value for key, value in (metadata | changes).items() if value is not None}
    (path / "model.json").write_text(json.dumps(kept))


def test_the_weights_in_a_directory_may_be_known_by_their_hash(directory):
    sha256 = file_sha256(directory / "model.safetensors")
    assert load(f"{directory}#sha256={sha256}").info.sha256 == sha256
    with pytest.raises(ModelLoadError, match=rf"its SHA-256 is {sha256}, expected 00"):
        load(f"{directory}#sha256=00")


def test_a_bundled_model_may_be_known_by_its_hash():
    sha256 = load("water").info.sha256
    assert load(f"water#sha256={sha256}").info.name == "water"
    with pytest.raises(ModelLoadError, match=rf"its SHA-256 is {sha256}, expected 00"):
        load("water#sha256=00")


def test_a_model_of_a_third_party_is_loaded_by_its_entry_point(directory):
    model = load(directory)
    assert model.info.name == "argon"
    assert model.info.version == "2.1"
    assert model.info.architecture == "argon"
    assert model.info.sha256 == file_sha256(directory / "model.safetensors")
    assert model.info.cutoff == 6.0
    assert model.info.outputs == OUTPUTS
    assert model.info.n_parameters == 2
    assert model.info.card == "# Argon\n"
    assert model.info.metadata["errors"] == {"energy": 1.5}
    assert model.info.units["conservative_forces"] == "eV/Å"
    (prediction,) = predict(model.potential, [molecule()], ["energy"])
    assert prediction.energy < 0


def test_dtype_and_name_default_to_those_of_the_model_and_can_be_overridden(directory):
    assert load(directory).info.dtype == "float32"
    other = load(str(directory), dtype="float64", name="mine")
    assert (other.info.dtype, other.info.name, other.info.device) == ("float64", "mine", "cpu")
    assert other.potential.dtype == torch.float64


def test_a_directory_may_have_any_name(directory):
    for name in ("argon#1", "argon.pt"):
        other = directory.with_name(name)
        other.symlink_to(directory)
        assert load(other).info.name == "argon"


def test_a_model_card_is_optional(directory):
    (directory / "CARD.md").unlink()
    assert load(directory).info.card == ""


def test_changed_weights_are_refused(directory):
    save_file({"parameters": torch.tensor([0.02, 3.4])}, directory / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"SHA-256 is [0-9a-f]{64}, expected"):
        load(directory)


def test_missing_files_are_named(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no model\.safetensors"):
        load(directory)
    (directory / "model.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no model\.json"):
        load(directory)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "\x00"])
def test_corrupt_metadata_is_refused(directory, text):
    (directory / "model.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"model\.json"):
        load(directory)


@pytest.mark.parametrize("key", ["architecture", "sha256", "dtype", "cutoff"])
def test_metadata_without_a_required_field_is_refused(directory, key):
    write_metadata(directory, **{key: None})
    with pytest.raises(ModelLoadError, match=f"missing {key}"):
        load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 6}, None),
        ({"outputs": ["energy"]}, "outputs: expected"),
        ({"elements": [18]}, "elements: expected"),
        ({"dtype": "float16"}, "float32 or float64, got float16"),
    ],
)
def test_metadata_that_does_not_match_the_potential_is_refused(directory, changes, message):
    write_metadata(directory, **changes)
    if message is None:
        assert load(directory)
    else:
        with pytest.raises(ModelLoadError, match=message):
            load(directory)


def test_an_unknown_architecture_is_refused_with_the_known_ones(directory):
    write_metadata(directory, architecture="crystal-ball")
    with pytest.raises(ModelLoadError, match=r"argon.*hybrid_net.*, got 'crystal-ball'"):
        load(directory)


def test_a_loader_that_fails_or_is_missing_raises_a_model_load_error(directory):
    write_metadata(directory, architecture="bad")
    with pytest.raises(ModelLoadError, match=r"KeyError: 'layers\.0\.weight'"):
        load(directory)
    write_metadata(directory, architecture="gone")
    with pytest.raises(ModelLoadError, match="no_such_module"):
        load(directory)


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ModelLoadError, match=r"'wine' is neither.*toy:harmonic"):
        load("wine")


@pytest.mark.parametrize("spec", toy_models())
def test_the_model_info_of_a_toy_describes_it(spec):
    model = load(spec, dtype=torch.float32)
    assert model.info.name == model.info.architecture == spec
    assert model.info.outputs == OUTPUTS
    assert model.info.dtype == "float32"
    assert len(model.info.sha256) == 64
    assert len(model.info.elements) == 118
    assert model.info.card.startswith(f"# {spec}")
    assert model.info.sha256 == load(spec).info.sha256


def test_toys_of_different_parameters_have_different_hashes():
    hashes = {load(spec).info.sha256 for spec in toy_models()}
    assert len(hashes) == len(toy_models())


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_load_and_are_small(name):
    model = load(name)
    assert 0 < model.info.n_parameters < 1_000_000
    assert model.info.name == name
    assert model.info.card
    (prediction,) = predict(model.potential, [molecule(element=model.info.elements[0])], ["energy"])
    assert np.isfinite(prediction.energy)
