"""Training of a PET in both stages with metatrain: interrupted, resumed, and measured."""

import json

import ase.io
import numpy as np
import pytest

pytest.importorskip("metatrain", reason="metatrain is not installed: pip install -e '.[pet]'")

from tests.models.training.test_training import labeled_examples
from twinforce_models import registry
from twinforce_models.training import dataset
from twinforce_models.training.config import read_recipe
from twinforce_models.training.pet import main as pet

TINY = (
    "cutoff=3.6",
    "d_pet=4",
    "d_head=4",
    "d_node=8",
    "d_feedforward=8",
    "num_heads=2",
    "num_gnn_layers=1",
)


def train(folder, n_direct, n_conservative):
    overrides = [f"--override=architecture.model.{each}" for each in TINY]
    epochs = ["--epochs", str(n_direct), str(n_conservative)]
    pet.main(["--data", str(folder / "data"), "--out", str(folder / "out"), *epochs, *overrides])


def logged_epochs(folder):
    lines = [line for log in sorted(folder.glob("outputs/*/*/train.log")) for line in
             log.read_text().splitlines()]  # fmt: skip
    return [int(line.split("Epoch:")[1].split("|")[0]) for line in lines if "Epoch:" in line]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    ase.io.write(tmp_path / "data" / "argon.xyz", labeled_examples(20))
    return tmp_path


@pytest.mark.slow
def test_a_pet_is_trained_in_both_stages_resumed_and_measured(folder, capfd):
    out = folder / "out"
    train(folder, 1, 1)
    (out / "conservative" / "model.ckpt").unlink()  # as if stopped after its first epoch
    (out / "errors.json").unlink()
    first = (out / "direct" / "model.ckpt").stat().st_mtime_ns
    train(folder, 1, 3)
    assert (out / "direct" / "model.ckpt").stat().st_mtime_ns == first
    assert logged_epochs(out / "direct") == [0]
    assert logged_epochs(out / "conservative") == [0, 1, 2]
    errors = json.loads((out / "errors.json").read_text())
    assert errors["n_test_systems"] == 4
    printed = capfd.readouterr().out
    assert json.loads(printed[printed.rindex("{") :]) == errors
    model = registry.load(out / "conservative" / "model.ckpt")
    assert model.info.elements == (10, 18)
    assert "direct_forces" in model.info.outputs
    test = dataset.read_examples(out / "conservative" / "test.xyz")
    expected = pet.measure_errors(out / "conservative")
    assert expected == errors
    recipe, _ = read_recipe(pet.NATIVE_RECIPE)
    _, kept_out = dataset.split_examples(dataset.read_examples(folder / "data"), recipe)
    for one, other in zip(test, kept_out, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
