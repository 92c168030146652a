"""Systems of any size share a training step without affecting each other."""

import dataclasses
from functools import partial

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.training import dataset, report
from twinforce_models.training.config import Stage, TableShape, Weights, read_recipe
from twinforce_models.training.packing import GroupSize, narrowest, pack
from twinforce_models.training.run import prepare
from twinforce_models.training.steps import (
    Evaluation,
    inputs,
    make_direct_evaluate,
    make_evaluate,
)
from twinforce_models.training.trainer import stage_loss
from twinforce_proto import OUTPUTS

RECIPE = """
name = "metals"
seed = 5
test_fraction = 0.0
split_key = "part"
force_tolerance = 0.01
energy_tolerance = 0.001
balance = 0.5
ema_decay = 0.9
max_gradient_norm = 10.0
weight_decay = 1e-4
evaluate_every = 8
tables = [
    { n_atoms = 20, n_neighbors = 20, n_systems = 4 },
    { n_atoms = 16, n_neighbors = 60, n_systems = 3 },
]

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
name = "conservative"
epochs = 8
learning_rate = 5e-3
weights = { energy = 0.0, conservative_stress = 1.0, direct_stress = 1.0 }
"""


def crystals():
    """Return strained, shaken crystals of 1 to 8 atoms of two elements, labeled by a toy."""
    generator, examples = np.random.default_rng(0), []
    for n in range(24):
        atoms = bulk(["Ar", "Ne"][n % 2], "fcc", [5.1, 4.0][n % 2], cubic=bool(n % 3))
        atoms = atoms.repeat((1 + n % 4 // 3, 1, 1))
        strain = generator.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.rattle(0.1, rng=generator)
        atoms.info["part"] = "test" if n % 4 == 0 else "train"
        examples.append(labeled(atoms))
    return examples


def labeled(atoms: Atoms) -> Atoms:
    outputs = {"energy", "conservative_forces", "conservative_stress"}
    (label,) = predict(lennard_jones(dtype=torch.float64), [dataset.to_system(atoms)], outputs)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=label.energy,
        forces=label.conservative_forces,
        stress=label.conservative_stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
    )
    return atoms


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "metals.toml"
    path.write_text(RECIPE)
    return read_recipe(path)[0]


@pytest.fixture
def run(recipe, tmp_path):
    ase.io.write(tmp_path / "metals.xyz", crystals())
    return prepare(recipe, tmp_path / "metals.xyz", tmp_path / "run", is_compiled=False)


def test_packed_systems_get_the_predictions_of_each_system_alone(run):
    trainer, potential = run.trainer, run.potential()
    evaluate = make_evaluate(trainer.core, conservative=True)
    energies, n_seen = [], 0
    for sample in trainer.test:
        evaluated = evaluate(trainer.parameters, *inputs(sample))
        seen = Evaluation(*(value.detach() for value in evaluated))
        for s, members in enumerate(sample.membership.bool()):
            if not members.any():
                assert seen.energy[s] == 0
                continue
            example = labeled_like(run.test_examples, sample.strain_gradient_labels[s])
            np.testing.assert_allclose(
                sample.force_labels[members], example.get_forces(), atol=1e-6
            )
            (alone,) = predict(potential, [dataset.to_system(example)], OUTPUTS)
            references = run.reference_energies[[[10, 18].index(z) for z in example.numbers]].sum()
            energies.append((float(seen.energy[s]) + references, alone.energy))
            volume = example.get_volume()
            for value, name in (
                (seen.conservative_forces[members], "conservative_forces"),
                (seen.direct_forces[members], "direct_forces"),
                (seen.strain_gradient[s] / volume, "conservative_stress"),
                (seen.direct_strain_gradient[s] / volume, "direct_stress"),
            ):
                np.testing.assert_allclose(value, getattr(alone, name), atol=5e-6, err_msg=name)
            n_seen += 1
    assert n_seen == len(run.test_examples) == 6
    np.testing.assert_allclose(*np.transpose(energies), atol=2e-5)


def labeled_like(examples, strain_gradient):
    """Return the only example with this label."""
    (example,) = (
        f
        for f in examples
        if np.allclose(f.get_stress(voigt=False) * f.get_volume(), strain_gradient, atol=1e-5)
    )
    return example


def test_padding_does_not_change_the_loss(run):
    trainer = run.trainer
    evaluate = make_evaluate(trainer.core, conservative=True)
    tabulator = dataset.Tabulator((10, 18), 5.0, run.reference_energies, np.array([1.5, 0.8]))
    stage, losses = trainer.recipe.stages[0], []
    examples = [example for example in run.test_examples if len(example) == 4][:2]
    for n_systems, padding in ((2, 0), (5, 13)):
        table = TableShape(8 + padding, 60 + padding, n_systems)
        sample = tabulator.sample([(example,) for example in examples], table)
        evaluation = Evaluation(*evaluate(trainer.parameters, *inputs(sample)))
        losses.append(float(stage_loss(evaluation, sample, stage, trainer.recipe).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_each_term_of_the_loss_matches_its_formula(run):
    trainer, recipe = run.trainer, run.trainer.recipe
    example, scale = run.test_examples[1], 1.5
    tabulator = dataset.Tabulator((10, 18), 5.0, run.reference_energies, np.full(2, scale))
    sample = tabulator.sample([(example,)], TableShape(len(example), 60, 1))
    evaluation = Evaluation(
        *make_evaluate(trainer.core, conservative=True)(trainer.parameters, *inputs(sample))
    )
    (alone,) = predict(run.potential(), [dataset.to_system(example)], OUTPUTS)
    stress = (alone.conservative_stress - example.get_stress(voigt=False)) * example.get_volume()
    expected = {
        "energy": ((alone.energy - example.get_potential_energy()) / len(example), 0.001),
        "conservative_forces": (alone.conservative_forces - example.get_forces(), 0.01),
        "conservative_stress": (stress / len(example), 0.001),
    }
    for name, (error, tolerance) in expected.items():
        size = np.abs(scale * np.asarray(error))
        robust = np.where(size < tolerance, size**2 / (2 * tolerance), size - tolerance / 2).mean()
        only = dataclasses.replace(
            recipe.stages[0].weights,
            **{
                f.name: 2.0 * (f.name == name) for f in dataclasses.fields(recipe.stages[0].weights)
            },
        )
        stage = dataclasses.replace(recipe.stages[0], weights=only)
        loss = float(stage_loss(evaluation, sample, stage, recipe).detach())
        assert loss == pytest.approx(2.0 * robust, rel=1e-3), name


def test_the_twin_index_of_an_atom_is_the_same_atom_in_the_twin_system():
    two, one = (Atoms("He2"), Atoms("He2")), (Atoms("Ne3"),)
    assert dataset.twins([one, two, one, two], 16).tolist() == [
        *(0, 1, 2), *(5, 6, 3, 4), *(7, 8, 9), *(12, 13, 10, 11), *(14, 15)
    ]  # fmt: skip


def test_the_smoothness_term_counts_only_changes_between_twins(run):
    trainer, recipe = run.trainer, run.trainer.recipe
    lone, before = [example for example in run.test_examples if len(example) == 4][:2]
    after = before.copy()
    after.rattle(0.1, seed=1)
    after.calc = SinglePointCalculator(after, energy=0.0, forces=np.zeros((4, 3)))
    tabulator = dataset.Tabulator((10, 18), 5.0, run.reference_energies, np.ones(2))
    only = Weights(energy=0.0, smoothness=1.0)
    stage = dataclasses.replace(recipe.stages[0], weights=only)
    evaluate = make_evaluate(trainer.core, conservative=stage.is_conservative)

    def loss_of(*groups):
        sample = tabulator.sample(groups, TableShape(14, 80, 5))
        evaluation = Evaluation(*evaluate(trainer.parameters, *inputs(sample)))
        return float(stage_loss(evaluation, sample, stage, recipe).detach())

    systems = [dataset.to_system(example) for example in (before, after)]
    first, second = (
        p.direct_forces - p.conservative_forces for p in predict(run.potential(), systems, OUTPUTS)
    )
    size, tolerance = np.abs(first - second), recipe.force_tolerance
    robust = np.where(size < tolerance, size**2 / (2 * tolerance), size - tolerance / 2).mean()
    assert robust > 1e-3
    assert loss_of((before, after)) == pytest.approx(robust, rel=1e-3)
    assert loss_of((lone,), (before, after)) == pytest.approx(robust, rel=1e-3)
    assert loss_of((before, before)) == pytest.approx(0.0, abs=1e-7)
    assert loss_of((before,)) == 0.0


def test_the_change_term_counts_the_change_of_the_error_of_direct_forces_between_twins(run):
    trainer, recipe = run.trainer, run.trainer.recipe
    lone, before = [example for example in run.test_examples if len(example) == 4][:2]
    after = before.copy()
    after.rattle(0.1, seed=1)
    labeled(after)
    tabulator = dataset.Tabulator((10, 18), 5.0, run.reference_energies, np.ones(2))
    only = Weights(energy=0.0, change=3.0)
    stage = dataclasses.replace(recipe.stages[0], weights=only)
    assert not stage.is_conservative
    evaluate = make_evaluate(trainer.core, conservative=False)

    def loss_of(*groups):
        sample = tabulator.sample(groups, TableShape(14, 80, 5))
        evaluation = Evaluation(*evaluate(trainer.parameters, *inputs(sample)))
        return float(stage_loss(evaluation, sample, stage, recipe).detach())

    systems = [dataset.to_system(example) for example in (before, after)]
    found = predict(run.potential(), systems, OUTPUTS)
    errors = [
        p.direct_forces - each.get_forces() for p, each in zip(found, (before, after), strict=True)
    ]
    size, tolerance = np.abs(errors[0] - errors[1]), recipe.force_tolerance
    robust = np.where(size < tolerance, size**2 / (2 * tolerance), size - tolerance / 2).mean()
    assert robust > 1e-3
    assert loss_of((before, after)) == pytest.approx(3.0 * robust, rel=1e-3)
    assert loss_of((lone,), (before, after)) == pytest.approx(3.0 * robust, rel=1e-3)
    assert loss_of((before,), (lone,)) == 0.0


def test_systems_without_a_stress_do_not_train_the_direct_stress_of_a_direct_stage(run):
    trainer, recipe = run.trainer, run.trainer.recipe
    known, unknown = [example for example in run.test_examples if len(example) == 4][:2]
    del unknown.calc.results["stress"]
    tabulator = dataset.Tabulator((10, 18), 5.0, run.reference_energies, np.ones(2))
    stage = dataclasses.replace(recipe.stages[0], weights=Weights(energy=0.0, direct_stress=1.0))
    evaluate = make_evaluate(trainer.core, conservative=False)
    losses = []
    for group in ((known,), (unknown,)):
        sample = tabulator.sample([group], TableShape(4, 60, 1))
        evaluation = Evaluation(*evaluate(trainer.parameters, *inputs(sample)))
        losses.append(float(stage_loss(evaluation, sample, stage, recipe).detach()))
    assert losses[0] > 1e-4
    assert losses[1] == 0.0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # from torch itself
def test_direct_steps_with_compiled_sums_match_plain_steps(run, monkeypatch):
    """Check the traced graphs; building machine code from them would take longer."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    trainer = run.trainer
    weights = Weights(energy=1.0, direct_forces=1.0, direct_stress=1.0)
    stage = dataclasses.replace(trainer.recipe.stages[0], weights=weights)
    seen = []
    for evaluate in (
        make_evaluate(trainer.core, conservative=False),
        make_direct_evaluate(trainer.core),
    ):
        for sample in trainer.train[:3]:
            evaluation = Evaluation(*evaluate(trainer.parameters, *inputs(sample)))
            stage_loss(evaluation, sample, stage, trainer.recipe).backward()
        gradients = [p.grad if p.grad is not None else p.new_zeros(()) for p in trainer.parameters]
        trainer.optimizer.zero_grad()
        seen.append([*(value.detach() for value in evaluation), *gradients])
    assert sum(bool(gradient.any()) for gradient in seen[0]) > 20
    for plain, fast in zip(*seen, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_only_direct_stages_compile_the_sums_of_messages_alone():
    weights = Weights(energy=1.0, conservative_forces=1.0)
    with pytest.raises(ValueError, match="compiled: expected one of step, nothing, got 'messages'"):
        Stage("conservative", 1, 1e-3, weights, compiled="messages")


def test_training_on_stress_improves_both_stresses(run, recipe):
    examples, _ = dataset.split_examples(crystals(), recipe)

    def errors():
        return report.errors_of(
            report.compare(examples, report.predict_each(run.potential(), examples))
        )

    before = errors()
    run.trainer.run()
    after = errors()
    assert after["conservative_stress_mae_gpa"] < 0.7 * before["conservative_stress_mae_gpa"]
    assert after["direct_stress_mae_gpa"] < 0.7 * before["direct_stress_mae_gpa"]


def test_every_system_is_packed_once_into_a_table_that_it_fits(recipe):
    generator = np.random.default_rng(1)
    n_atoms = generator.integers(1, 16, size=60)
    sizes = [GroupSize(2 * n, 2) if n < 4 else GroupSize(n) for n in n_atoms]
    widths = generator.integers(1, 60, size=60).tolist()
    packs = pack(sizes, widths, 60, recipe)
    assert sorted(n for _, members in packs for n in members) == list(range(60))
    for table, members in packs:
        assert table == narrowest(
            max(sizes[m] for m in members), max(widths[m] for m in members), [table]
        )
        assert sum(sizes[m].n_atoms for m in members) <= table.n_atoms
        assert sum(sizes[m].n_systems for m in members) <= table.n_systems
    assert len(packs) < 45
    assert packs == pack(sizes, widths, 60, recipe)


def test_a_system_that_fits_no_table_is_refused_with_its_size(recipe):
    with pytest.raises(ValueError, match="17 atoms in 1 systems, with up to 30 neighbors"):
        narrowest(GroupSize(17), 30, recipe.tables)


def test_a_given_split_is_used_and_an_example_without_one_is_refused(recipe):
    examples = crystals()
    train, test = dataset.split_examples(examples, recipe)
    assert test == [example for example in examples if example.info["part"] == "test"]
    assert len(train) + len(test) == len(examples)
    examples[3].info["part"] = "validation"
    with pytest.raises(ValueError, match=r"system 3: info\['part'\].*got 'validation'"):
        dataset.split_examples(examples, recipe)


def test_balance_weights_elements_by_their_forces():
    examples = crystals()
    squares = {
        z: np.square(np.concatenate([f.get_forces() for f in examples if f.numbers[0] == z])).mean()
        for z in (10, 18)
    }
    whole, half = (dataset.error_scales(examples, [10, 18, 3], b) for b in (1.0, 0.5))
    assert whole[0] / whole[1] == pytest.approx((squares[18] / squares[10]) ** 0.5)
    np.testing.assert_allclose(half**2, whole)
    assert whole[2] == 1.0
    np.testing.assert_array_equal(dataset.error_scales(examples, [10, 18], 0.0), [1.0, 1.0])


def test_fields_added_later_do_not_change_the_hash_at_their_defaults(recipe):
    bare = dataclasses.replace(recipe, split_key="", tables=(), balance=0.0)
    assert len({bare.sha256(), recipe.sha256()}) == 2
    assert dataclasses.replace(bare, balance=0.5).sha256() != bare.sha256()
