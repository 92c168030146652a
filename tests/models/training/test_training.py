"""Training by a recipe, on small systems labeled by a toy: it learns, resumes, writes a model."""

import csv
import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from twinforce_models import registry
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.training import dataset
from twinforce_models.training.bundle import export
from twinforce_models.training.config import read_recipe
from twinforce_models.training.main import main
from twinforce_models.training.run import prepare
from twinforce_models.training.steps import Evaluation, inputs, make_evaluate
from twinforce_proto import System

RECIPE = """
name = "argon"
seed = 3
test_fraction = 0.25
force_tolerance = 0.01
energy_tolerance = 0.001
ema_decay = 0.9
max_gradient_norm = 10.0
weight_decay = 1e-4
evaluate_every = 2

[hyperparameters]
elements = [10, 18]
cutoff = 5.0
n_scalars = 16
n_vectors = 8
n_tensors = 8
n_layers = 2
n_radial = 6
mean_n_neighbors = 12.0

[[stages]]
name = "direct"
epochs = 6
learning_rate = 5e-3
weights = { energy = 1.0, direct_forces = 1.0 }

[[stages]]
name = "conservative"
epochs = 6
learning_rate = 3e-3
weights = { energy = 1.0, conservative_forces = 1.0, direct_forces = 0.5, direct_stress = 0.5 }
"""


def labeled_examples(n_examples=16, seed=0):
    """Return crystals of two elements, labeled by the Lennard-Jones toy."""
    toy, generator = lennard_jones(dtype=torch.float64), np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
    examples = []
    for _ in range(n_examples):
        length = generator.uniform(6.6, 7.2)
        positions = grid * length / 2 + generator.normal(scale=0.15, size=(8, 3))
        system = System([10, 18] * 4, positions, np.eye(3) * length, pbc=True)
        (label,) = predict(toy, [system], {"energy", "conservative_forces"})
        atoms = Atoms(system.atomic_numbers, positions, cell=system.cell, pbc=True)
        atoms.calc = SinglePointCalculator(
            atoms, energy=label.energy, forces=label.conservative_forces
        )
        examples.append(atoms)
    return examples


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    ase.io.write(folder / "argon.xyz", labeled_examples())
    return folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "argon.toml"
    path.write_text(RECIPE)
    return path


def arguments(recipe_file, data, out):
    return [str(recipe_file), "--data", str(data), "--out", str(out), "--no-compile"]


@pytest.fixture(scope="module")
def trained(recipe_file, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    main(arguments(recipe_file, data, out))
    return out


def rows_of(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_stages_reduce_the_errors(trained):
    rows = rows_of(trained)
    assert [row["stage"] for row in rows] == ["direct"] * 6 + ["conservative"] * 6
    direct = [float(row["train_direct_mae"]) for row in rows if row["stage"] == "direct"]
    conservative = [float(row["train_conservative_mae"]) for row in rows[6:]]
    assert direct[-1] < 0.8 * direct[0]
    assert conservative[-1] < 0.8 * conservative[0]
    assert float(rows[-1]["cpu_s"]) > float(rows[0]["cpu_s"]) > 0


def test_the_reported_errors_match_an_independent_calculation(trained, recipe_file, data):
    recipe, _ = read_recipe(recipe_file)
    examples = dataset.read_examples(data)
    _, test = dataset.split_examples(examples, recipe)
    potential = registry.load(trained / "model").potential
    differences = []
    for example in test:
        system = System(example.numbers, example.positions, example.cell.array, example.pbc)
        (prediction,) = predict(potential, [system], {"conservative_forces"})
        differences.append(prediction.conservative_forces - example.get_forces())
    errors = json.loads((trained / "model" / "model.json").read_text())["errors"]
    expected = 1e3 * np.abs(differences).mean()
    assert errors["conservative_forces_mae_mev_per_angstrom"] == pytest.approx(expected, rel=1e-6)
    logged = float(rows_of(trained)[-1]["test_conservative_mae"])
    assert logged == pytest.approx(expected, rel=1e-3)


def test_a_run_writes_a_model_with_card_and_plots(trained):
    info = registry.load(trained / "model").info
    assert info.name == "argon"
    assert info.metadata["recipe"]["stages"][0]["name"] == "direct"
    assert 0 < info.metadata["errors"]["nonconservativity_mean"] < 1
    assert "argon" in info.card
    for name in ("learning.png", "parity.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


KILLED = """
import os, pathlib, signal, sys
from twinforce_models.training.main import main

replace, n_logs = pathlib.Path.replace, 0

def replace_and_kill_process(self, target):
    global n_logs
    replace(self, target)
    n_logs += pathlib.Path(target).name == "log.csv"
    if n_logs == 3:
        os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.replace = replace_and_kill_process
main(sys.argv[1:])
"""


def test_a_killed_run_resumes_to_the_same_weights(trained, recipe_file, data, tmp_path):
    """Kill the process once its log has been written three times, then resume."""
    command = [sys.executable, "-c", KILLED, *arguments(recipe_file, data, tmp_path)]
    run = subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert run.returncode == -signal.SIGKILL
    assert 2 <= len(rows_of(tmp_path)) < len(rows_of(trained))
    main(arguments(recipe_file, data, tmp_path))
    straight, resumed = (registry.load(out / "model").info.sha256 for out in (trained, tmp_path))
    assert resumed == straight


def test_a_checkpoint_of_another_recipe_is_refused(trained, recipe_file, data, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(recipe_file.read_text().replace("seed = 3", "seed = 4"))
    with pytest.raises(ValueError, match="expected a checkpoint for recipe"):
        main(arguments(other, data, trained))


def test_a_checkpoint_of_other_data_is_refused(trained, recipe_file, tmp_path):
    ase.io.write(tmp_path / "argon.xyz", labeled_examples(seed=1))
    with pytest.raises(ValueError, match="expected a checkpoint for data"):
        main(arguments(recipe_file, tmp_path, trained))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sead = 3", "sead"),
        ("seed = 3", "", "seed"),
        ("cutoff = 5.0", "cut_off = 5.0", "cut_off"),
        ("seed = 3", "seed = 3\nstress_offsets = [0.1]", "stress_offsets: expected"),
    ],
)
def test_an_invalid_recipe_is_refused_with_the_reason(tmp_path, old, new, message):
    path = tmp_path / "wrong.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_recipe(path)


def test_missing_data_is_refused_with_the_path(recipe_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(arguments(recipe_file, tmp_path / "nowhere", tmp_path))


@pytest.fixture
def run(recipe_file, data, tmp_path):
    recipe, _ = read_recipe(recipe_file)
    return prepare(recipe, data, tmp_path, is_compiled=False)


def test_training_evaluates_the_same_values_as_the_potential(run):
    trainer, example = run.trainer, run.test_examples[0]
    evaluate = make_evaluate(trainer.core, conservative=True)
    seen = Evaluation(*evaluate(trainer.parameters, *inputs(trainer.test[0])))
    system = System(example.numbers, example.positions, example.cell.array, example.pbc)
    outputs = {"conservative_forces", "direct_forces", "conservative_stress", "direct_stress"}
    (prediction,) = predict(run.potential(), [system], outputs)
    volume = example.get_volume()
    for name, value in (
        ("conservative_forces", seen.conservative_forces),
        ("direct_forces", seen.direct_forces),
        ("conservative_stress", seen.strain_gradient[0] / volume),
        ("direct_stress", seen.direct_strain_gradient[0] / volume),
    ):
        np.testing.assert_allclose(
            value.detach().numpy(), getattr(prediction, name), atol=2e-6, err_msg=name
        )


def test_offsets_of_the_stress_are_subtracted_from_the_labels_for_each_atom(data, tmp_path):
    examples = dataset.read_examples(data)
    for example in examples:
        labels = example.calc.results | {"stress": np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])}
        example.calc = SinglePointCalculator(example, **labels)
    (tmp_path / "data").mkdir()
    ase.io.write(tmp_path / "data" / "argon.xyz", examples)
    path = tmp_path / "offsets.toml"
    path.write_text("stress_offsets = [0.3, 0.2]\n" + RECIPE)
    recipe, _ = read_recipe(path)
    run = prepare(recipe, tmp_path / "data", tmp_path / "run", is_compiled=False)
    train, _ = dataset.split_examples(examples, recipe)
    for example, sample in zip(train, run.trainer.train, strict=True):
        expected = example.get_volume() * example.get_stress(voigt=False) - 4 * 0.5 * np.eye(3)
        np.testing.assert_allclose(sample.strain_gradient_labels[0], expected, rtol=1e-5)
    for example in run.test_examples:  # those that errors are measured on
        assert 3 * 4 * 0.5 / example.get_volume() == pytest.approx(
            0.06 - np.trace(example.get_stress(voigt=False)), rel=1e-6
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # from torch itself
def test_compiled_steps_match_plain_steps(data, tmp_path, monkeypatch):
    """Check the traced graphs; building machine code from them would take minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    path = tmp_path / "argon.toml"
    path.write_text(RECIPE.replace("n_layers = 2", "n_layers = 1"))  # half the time to compile
    recipe, _ = read_recipe(path)
    plain, fast = (
        prepare(recipe, data, tmp_path, is_compiled=is_compiled) for is_compiled in (False, True)
    )
    for stage in recipe.stages[1:]:  # the conservative one, which is differentiated twice
        gradients = []
        for trainer in (plain.trainer, fast.trainer):
            evaluation = Evaluation(
                *trainer.evaluate_of(stage)(trainer.parameters, *inputs(trainer.train[0]))
            )
            loss = evaluation.direct_forces.square().sum()
            loss = loss + evaluation.conservative_forces.square().sum() + evaluation.energy.sum()
            loss.backward()
            gradients.append(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.parameters]
            )
            trainer.optimizer.zero_grad()
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_compiling_systems_of_different_sizes_is_refused(recipe_file, tmp_path):
    examples = labeled_examples(4)
    lone = examples[0].copy()[:6]
    lone.calc = SinglePointCalculator(lone, energy=0.0, forces=np.zeros((6, 3)))
    ase.io.write(tmp_path / "mixed.xyz", [*examples, lone])
    recipe, _ = read_recipe(recipe_file)
    run = prepare(recipe, tmp_path, tmp_path, is_compiled=True)
    with pytest.raises(ValueError, match="differ in size"):
        run.trainer.run()


AGREEMENT = (
    RECIPE.split("[[stages]]")[0]
    + """
[sampling]
n_runs = 2
n_systems_per_run = 4
temperatures_k = [100.0, 200.0]
n_settling_steps = 5
n_steps_between = 4
n_steps_to_twin = 2

[[stages]]
name = "agreement"
epochs = 8
learning_rate = 2e-3
weights = { energy = 1.0, conservative_forces = 1.0, agreement = 4.0, smoothness = 4.0 }
"""
)


@pytest.fixture(scope="module")
def agreeing(trained, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("agreement")
    recipe = out / "agreement.toml"
    recipe.write_text(AGREEMENT)
    main([*arguments(recipe, data, out), "--start", str(trained / "model")])
    return out


def disagreement(folder, examples):
    potential = registry.load(folder / "model").potential
    systems = [System(f.numbers, f.positions, f.cell.array, f.pbc) for f in examples]
    found = predict(potential, systems, {"conservative_forces", "direct_forces"})
    return np.sqrt(np.mean([(p.direct_forces - p.conservative_forces) ** 2 for p in found]))


def test_an_agreement_stage_reduces_the_disagreement_on_unseen_systems(trained, agreeing):
    unseen = labeled_examples(seed=7)
    assert disagreement(agreeing, unseen) < 0.9 * disagreement(trained, unseen)


def test_a_model_names_the_model_that_its_training_started_from(trained, agreeing):
    (before, after) = (
        json.loads((folder / "model" / "model.json").read_text()) for folder in (trained, agreeing)
    )
    assert "started_from" not in before
    assert after["started_from"]["sha256"] == before["sha256"] != after["sha256"]
    assert after["started_from"]["recipe"] == before["recipe"]
    card = (agreeing / "model" / "CARD.md").read_text()
    n_before = len(before["recipe"]["stages"])
    assert f"{n_before + 1}. `agreement`: 8 epochs" in card
    assert f"began with stage {n_before + 1}, from the weights of {before['name']}" in card


def test_the_card_counts_the_stages_of_all_models_before(agreeing, data, tmp_path):
    recipe, about = read_recipe(agreeing / "agreement.toml")
    recipe = replace(recipe, sampling=None)
    run = prepare(recipe, data, tmp_path, is_compiled=False, start=str(agreeing / "model"))
    measured = {"errors": {}, "errors_by_elements": {}, "force_disagreement": {}}
    export(run.trainer, about, run.potential(), measured, tmp_path / "model", start=run.start)
    card = (tmp_path / "model" / "CARD.md").read_text()
    assert "1. `direct`" in card
    assert "3. `agreement`" in card
    assert "4. `agreement`" in card
    assert "began with stage 4" in card


def test_sampled_systems_are_labeled_by_the_model_that_sampled_them(trained, agreeing):
    examples = [
        f for n in range(2) for f in ase.io.read(agreeing / "sampled" / f"run{n}.traj", ":")
    ]
    assert len(examples) == 16  # each of the eight has a twin
    potential = registry.load(trained / "model").potential
    systems = [System(f.numbers, f.positions, f.cell.array, f.pbc) for f in examples]
    for example, found in zip(examples, predict(potential, systems, {"energy"}), strict=True):
        assert example.get_potential_energy() == pytest.approx(found.energy, abs=1e-4)
    moves = [np.abs(b.positions - a.positions).max() for a, b in itertools.pairwise(examples[:8])]
    assert min(moves) > 0
    assert np.mean(moves[::2]) < np.mean(moves[1::2])  # a twin is closer than the next system


def test_sampled_systems_are_reused_only_for_the_same_settings(trained, agreeing, data, tmp_path):
    place = agreeing / "sampled"
    before = {path: path.stat().st_mtime_ns for path in place.glob("*.traj")}
    recipe = agreeing / "agreement.toml"
    main([*arguments(recipe, data, agreeing), "--start", str(trained / "model")])
    assert {path: path.stat().st_mtime_ns for path in place.glob("*.traj")} == before
    other = tmp_path / "other.toml"
    other.write_text(AGREEMENT.replace("200.0", "300.0"))
    with pytest.raises(ValueError, match="other settings"):
        main([*arguments(other, data, agreeing), "--start", str(trained / "model")])


def test_a_recipe_with_sampling_needs_a_matching_model_to_start_from(agreeing, data, tmp_path):
    recipe = agreeing / "agreement.toml"
    with pytest.raises(ValueError, match="expected a model to start from"):
        main(arguments(recipe, data, tmp_path))
    with pytest.raises(ValueError, match="hyperparameters of the recipe, got 'water'"):
        main([*arguments(recipe, data, tmp_path), "--start", "water"])
