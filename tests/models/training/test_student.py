"""Students: recipes made from a preset, labeled data and a time, and trained on toy labels."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tests.models.training.test_training import KILLED
from twinforce_models import registry
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.training import dataset
from twinforce_models.training.config import DataSource, Sampling, TableShape, read_recipe
from twinforce_models.training.main import main, read_teacher
from twinforce_models.training.packing import GroupSize, choose_tables
from twinforce_models.training.students.budget import StageTimes, schedule
from twinforce_models.training.students.presets import PRESETS
from twinforce_models.training.students.student import StudentOrder, draft_stages, prepare_student
from twinforce_models.training.toml import recipe_text
from twinforce_proto import System


def labeled(atoms, part, group):
    """Return the atoms with Lennard-Jones labels; with a stress if they are periodic."""
    system = System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    outputs = {"energy", "conservative_forces"} | (
        {"conservative_stress"} if atoms.pbc.all() else set()
    )
    (label,) = predict(lennard_jones(dtype=torch.float64), [system], outputs)
    results = {"energy": label.energy, "forces": label.conservative_forces}
    if atoms.pbc.all():
        results["stress"] = label.conservative_stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= {"split": part, "group": group, "gap_fs": 4.0}
    return atoms


def crystal(generator, n_cells=2):
    grid = np.stack(np.meshgrid(*[np.arange(n_cells)] * 3), axis=-1).reshape(-1, 3)
    spacing = generator.uniform(3.5, 3.7)
    positions = grid * spacing + generator.normal(scale=0.15, size=grid.shape)
    return Atoms([10, 18] * (len(grid) // 2), positions, cell=[n_cells * spacing] * 3, pbc=True)


def cluster(generator, n_atoms=5):
    line = np.zeros((n_atoms, 3))
    line[:, 0] = 3.6 * np.arange(n_atoms)
    return Atoms([18] * n_atoms, line + generator.normal(scale=0.2, size=line.shape))


def mixed_examples():
    """Return crystals with twins, crystals without, and clusters; a quarter are test systems."""
    generator, examples = np.random.default_rng(4), []
    for group in range(16):
        part = "test" if group % 4 == 0 else "train"
        atoms = cluster(generator) if group % 3 == 2 else crystal(generator)
        examples.append(labeled(atoms, part, group))
        if group % 3 == 0:
            twin = atoms.copy()
            twin.rattle(0.03, rng=generator)
            examples.append(labeled(twin, part, group))
    return examples


def write(folder, examples):
    folder.mkdir(exist_ok=True)
    ase.io.write(folder / "data.xyz", examples, format="extxyz")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"), mixed_examples())


def arguments(data, out, *more, minutes=30):
    return [
        *("--student", "fast", "--minutes", str(minutes), "--data", str(data), "--out", str(out)),
        "--no-compile",
        *more,
    ]


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "about.json"
    path.write_text(
        json.dumps(
            {
                "teacher": "toy:lennard-jones",
                "teacher_sha256": "ab" * 32,
                "description": 'Crystals and clusters of "argon" and neon.',
                "licence": "MIT",
                "temperatures_k": [30, 60],
            }
        )
    )
    return path


@pytest.fixture(scope="module")
def more(teacher_file):
    return "--name", "noble", "--teacher-file", str(teacher_file)


def plan(data, out, teacher_file=None, **options):
    """Make the recipe of a student from its time, without training it; return the run."""
    teacher = teacher_file and read_teacher(teacher_file)
    order = StudentOrder("fast", 30.0, teacher=teacher, **options)
    return prepare_student(order, data, out, is_compiled=False, started=time.monotonic())[0]


def shorten(out, *epochs):
    """Give the recipe of a student these epochs; their number no longer depends on the machine.

    With so few steps, each must be longer than in a student of some minutes.
    """
    recipe, about = read_recipe(out / "recipe.toml")
    stages = tuple(
        dataclasses.replace(stage, epochs=n, learning_rate=2.0 * stage.learning_rate)
        for stage, n in zip(recipe.stages, epochs, strict=True)
    )
    recipe = dataclasses.replace(recipe, stages=stages, evaluate_every=10, ema_decay=0.9)
    (out / "recipe.toml").write_text(recipe_text(recipe, about, "A test."))
    return out


@pytest.fixture(scope="module")
def trained(data, more, teacher_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("student")
    plan(data, out, teacher_file, name="noble")
    main(arguments(data, shorten(out, 80, 8), *more))
    return out


def rows_of(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sha256_of(out):
    return registry.load(out / "model").info.sha256


def errors_of(out):
    return json.loads((out / "model" / "model.json").read_text())["errors"]


def test_a_student_of_mixed_crystals_and_clusters_learns_their_forces(trained, data):
    test = [each for each in dataset.read_examples(data) if each.info["split"] == "test"]
    forces = np.concatenate([each.get_forces() for each in test])
    errors = errors_of(trained)
    assert errors["n_test_systems"] == len(test)
    assert errors["direct_forces_mae_mev_per_angstrom"] < 0.5e3 * np.abs(forces).mean()
    assert [row["stage"] for row in rows_of(trained)][:: len(rows_of(trained)) - 1] == [
        "direct", "conservative"
    ]  # fmt: skip


def test_the_errors_of_a_student_match_an_independent_calculation(trained, data):
    test = [each for each in dataset.read_examples(data) if each.info["split"] == "test"]
    potential = registry.load(trained / "model").potential
    found = predict(potential, [*map(dataset.to_system, test)], {"direct_forces"})
    errors = [p.direct_forces - each.get_forces() for p, each in zip(found, test, strict=True)]
    changes = [
        errors[n] - errors[n - 1]
        for n in range(1, len(test))
        if test[n].info["group"] == test[n - 1].info["group"]
    ]
    assert len(changes) == 2
    for name, values in (("rmse", errors), ("change_rmse", changes)):
        expected = 1e3 * np.sqrt(np.square(np.concatenate(values)).mean())
        seen = errors_of(trained)[f"direct_forces_{name}_mev_per_angstrom"]
        assert seen == pytest.approx(expected, rel=1e-5)
        logged = rows_of(trained)[-1]["test_" + {"rmse": "direct_rmse"}.get(name, name)]
        assert float(logged) == pytest.approx(expected, rel=1e-3)


def test_the_card_and_the_metadata_of_a_student_name_its_teacher(trained):
    metadata = json.loads((trained / "model" / "model.json").read_text())
    assert metadata["name"] == "noble"
    assert metadata["teacher"]["teacher"] == "toy:lennard-jones"
    assert metadata["teacher"]["temperatures_k"] == [30.0, 60.0]
    card = (trained / "model" / "CARD.md").read_text()
    assert 'Crystals and clusters of "argon" and neon.' in card
    assert f"toy:lennard-jones (sha256 {'ab' * 8})" in card
    assert metadata["recipe"]["optimizer"] == "muon"
    assert "The optimizer is Muon." in card


def test_the_recipe_of_a_student_is_made_from_its_data_and_written(data, tmp_path):
    recipe = plan(data, tmp_path, name="noble").trainer.recipe
    assert read_recipe(tmp_path / "recipe.toml")[0] == recipe
    assert recipe.hyperparameters.elements == (10, 18)
    assert [stage.name for stage in recipe.stages] == ["direct", "conservative"]
    assert [stage.is_conservative for stage in recipe.stages] == [False, True]
    assert min(stage.epochs for stage in recipe.stages) > 1
    assert recipe.optimizer == "muon"


def test_the_sums_of_messages_are_compiled_where_there_is_a_compiler(monkeypatch, caplog):
    monkeypatch.setenv("CXX", sys.executable)
    assert [stage.compiled for stage in draft_stages(PRESETS["fast"])] == ["messages", "nothing"]
    assert not caplog.records
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert [stage.compiled for stage in draft_stages(PRESETS["fast"])] == ["nothing", "nothing"]
    assert "no-such-compiler is not installed" in caplog.text


def test_a_student_has_both_kinds_of_forces(trained):
    info = registry.load(trained / "model").info
    assert {"conservative_forces", "direct_forces", "direct_stress"} <= set(info.outputs)
    assert info.metadata["errors"]["conservative_forces_mae_mev_per_angstrom"] > 0


def test_the_written_recipe_repeats_the_training_exactly(trained, data, tmp_path):
    recipe = str(trained / "recipe.toml")
    main([recipe, "--data", str(data), "--out", str(tmp_path), "--no-compile"])
    assert sha256_of(tmp_path) == sha256_of(trained)


def test_a_finished_student_is_kept_when_its_command_is_repeated(trained, data, more):
    before, n_rows = sha256_of(trained), len(rows_of(trained))
    main(arguments(data, trained, *more))
    assert (sha256_of(trained), len(rows_of(trained))) == (before, n_rows)


def test_a_killed_student_continues_when_its_command_is_repeated(trained, data, more, tmp_path):
    for name in ("recipe.toml", "student.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    command = [sys.executable, "-c", KILLED, *arguments(data, tmp_path, *more)]
    run = subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert run.returncode == -signal.SIGKILL
    assert 0 < len(rows_of(tmp_path)) < len(rows_of(trained))
    main(arguments(data, tmp_path, *more))
    assert sha256_of(tmp_path) == sha256_of(trained)


def test_a_folder_with_another_student_is_refused(trained, data, more):
    with pytest.raises(ValueError, match="got others; choose another folder"):
        main(arguments(data, trained, *more, minutes=31))
    with pytest.raises(ValueError, match="got others; choose another folder"):
        main(arguments(data, trained, "--name", "helium"))


def test_a_student_starts_from_an_earlier_one_with_more_data(trained, tmp_path):
    generator, examples = np.random.default_rng(9), mixed_examples()
    examples += [labeled(crystal(generator), "train", 100 + n) for n in range(4)]
    data, out, start = write(tmp_path / "more", examples), tmp_path / "out", trained / "model"
    plan(data, out, start=str(start))
    main(arguments(data, shorten(out, 3, 1), "--start", str(start)))
    before, after = (read_recipe(each / "recipe.toml")[0] for each in (trained, out))
    assert after.hyperparameters == before.hyperparameters
    first, last = (registry.load(each / "model").potential for each in (trained, out))
    assert torch.equal(first.reference_energies, last.reference_energies)
    errors = [float(rows_of(each)[0]["train_direct_mae"]) for each in (trained, out)]
    assert errors[1] < 0.5 * errors[0]
    metadata = json.loads((out / "model" / "model.json").read_text())
    assert metadata["started_from"]["sha256"] == sha256_of(trained)


def test_a_start_that_does_not_fit_is_refused(trained, tmp_path):
    helium = cluster(np.random.default_rng(0))
    helium.numbers[:] = 36
    krypton = write(tmp_path / "krypton", [*mixed_examples(), labeled(helium, "train", 50)])
    with pytest.raises(ValueError, match=r"start: expected a model with the elements.*\[36\]"):
        main(arguments(krypton, tmp_path / "a", "--start", str(trained / "model")))
    noble = write(tmp_path / "noble", mixed_examples())
    with pytest.raises(ValueError, match="start: expected a model of the size"):
        main(arguments(noble, tmp_path / "b", "--start", "water"))


def regrouped(*groups):
    examples = mixed_examples()
    for example, group in zip(examples, groups, strict=False):
        example.info["group"] = group
    return examples


def without(key):
    examples = mixed_examples()
    del examples[3].info[key]
    return examples


def of_one_part(part):
    return [each for each in mixed_examples() if each.info["split"] == part]


def unknown_element():
    atoms = Atoms("X", info={"split": "train", "group": 99})
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)))
    return atoms


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (without("split"), r"system 3: info\['split'\]: expected 'train' or 'test', got None"),
        (without("group"), r"info\['group'\]: expected an integer, got None"),
        (regrouped(99, 99, 99), r"info\['group'\] = 99: expected at most two systems.*0, 1, 2"),
        (regrouped(99, 1, 99), r"\['group'\] = 99: expected adjacent systems, got systems 0, 2"),
        (regrouped(0, 99, 99), r"\['group'\] = 99: expected both systems in one part"),
        (regrouped(0, 0, 1, 99, 99), r"\['group'\] = 99: expected the same atoms.*Ar5"),
        (of_one_part("train"), "expected systems with the value 'test', got none"),
        (of_one_part("test"), "expected systems with the value 'train', got none"),
        (
            [*mixed_examples(), Atoms("Ar", info={"split": "train", "group": 99})],
            "system 22.*forces",
        ),
        ([*mixed_examples(), unknown_element()], "atomic numbers from 1 to 118"),
    ],
)
def test_unsuitable_data_are_refused_with_the_reason(tmp_path, examples, message):
    with pytest.raises(ValueError, match=message):
        main(arguments(write(tmp_path / "data", examples), tmp_path / "out"))
    assert not (tmp_path / "out" / "recipe.toml").exists()


def test_a_time_that_is_too_short_is_refused_with_the_time_that_is_needed(data, tmp_path):
    with pytest.raises(ValueError, match=r"minutes: expected at least 0\.[1-9].*got 0\.001"):
        main(arguments(data, tmp_path, minutes=0.001))


@pytest.mark.parametrize(
    "words",
    [[], ["--student", "fast"], ["water.toml", "--student", "fast", "--minutes", "3"]],
)
def test_a_command_without_one_complete_choice_is_refused(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--data", str(tmp_path), "--out", str(tmp_path)])
    assert "expected" in capsys.readouterr().err


def test_a_file_about_a_teacher_with_an_unknown_key_is_refused(data, tmp_path):
    about = tmp_path / "about.json"
    about.write_text('{"teacher": "mace:small", "license": "MIT"}')
    with pytest.raises(ValueError, match=r"about\.json.*license"):
        main(arguments(data, tmp_path / "out", "--teacher-file", str(about)))


def test_the_epochs_fill_the_time_that_is_left():
    times = StageTimes(epoch_s=2.0, evaluation_s=0.5), StageTimes(epoch_s=5.0, evaluation_s=1.0)
    plan = schedule(times, (0.8, 0.2), minutes=12.0, spent_s=120.0)
    direct, conservative = plan.epochs
    regular = (direct + conservative) // plan.evaluate_every
    used = 2.0 * direct + 5.0 * conservative + 1.5 + regular * 1.0
    assert 0.9 * 600 < used < 600
    assert 2.0 * direct / (2.0 * direct + 5.0 * conservative) == pytest.approx(0.8, abs=0.02)
    assert 10 <= regular <= 20


def test_the_least_time_allows_one_epoch_of_each_stage_and_less_is_refused():
    times = StageTimes(epoch_s=20.0, evaluation_s=5.0), StageTimes(epoch_s=60.0, evaluation_s=9.0)
    with pytest.raises(ValueError, match=r"expected at least 2\.0 for one epoch"):
        schedule(times, (0.8, 0.2), minutes=1.9, spent_s=20.0)
    plan = schedule(times, (0.8, 0.2), minutes=2.0, spent_s=20.0)
    assert plan.epochs == (1, 1)
    assert plan.evaluate_every > 1


def test_evaluations_that_take_long_are_made_less_often():
    quick, slow = (
        schedule(
            [StageTimes(epoch_s=1.0, evaluation_s=seconds)] * 2,
            (0.8, 0.2),
            minutes=10.0,
            spent_s=0.0,
        )
        for seconds in (0.1, 20.0)
    )
    assert slow.evaluate_every > 5 * quick.evaluate_every
    assert sum(slow.epochs) > 0.85 * sum(quick.epochs)


def test_groups_of_one_size_fill_tables_without_padding():
    twins = [GroupSize(384, 2)] * 9
    assert choose_tables(twins, [33] * 9, 192) == (TableShape(384, 34, 2),)
    cells = [GroupSize(54, 1)] * 9
    assert choose_tables(cells, [20] * 9, 192) == (TableShape(162, 20, 3),)


def test_groups_of_different_sizes_share_a_table_that_holds_each():
    (table,) = choose_tables([GroupSize(2), GroupSize(60), GroupSize(80, 2)], [5, 8, 7], 192)
    assert table == TableShape(192, 8, 96)


def test_a_second_table_is_made_only_where_it_saves_many_entries():
    sizes = [GroupSize(100)] * 10
    assert choose_tables(sizes, [20] * 8 + [60] * 2, 192) == (
        TableShape(100, 20, 1),
        TableShape(100, 60, 1),
    )
    assert choose_tables(sizes, [40] * 8 + [44] * 2, 192) == (TableShape(100, 44, 1),)


def test_a_recipe_survives_its_text(trained, tmp_path):
    recipe, about = read_recipe(trained / "recipe.toml")
    recipe = dataclasses.replace(
        recipe,
        force_tolerance=1.0 / 3.0,
        energy_tolerance=1e-7,
        sampling=Sampling(3, 2, (300.0, 350.5), n_steps_to_twin=4),
    )
    source = DataSource('A "paper"', "10.1/x", "CC", 3, "Line\nbreak, Å, \\ and \x7f.")
    about = dataclasses.replace(about, training_data=(source, source), limits="none: []")
    file = tmp_path / "again.toml"
    file.write_text(recipe_text(recipe, about, "A test."))
    assert read_recipe(file) == (recipe, about)
