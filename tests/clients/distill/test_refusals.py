"""Tests that what cannot work is refused early, with a reason that names it."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from tests.clients.serving import serve
from tests.potentials import Soft, loaded
from twinforce.assess import Progress
from twinforce.cli import run
from twinforce.distill import DistillSettings, ServiceOptions
from twinforce.distill.programs.services import running_service
from twinforce.distill.programs.training import export, minutes_needed, train
from twinforce.distill.teacher import check_teacher


@pytest.fixture
def distilled(capsys, tmp_path):
    """Return a function that runs the command and returns its exit status and its errors."""

    def distilled(file, *options, teacher="lj", out="out"):
        command = ["distill", str(file), "--teacher", teacher, "--out", str(tmp_path / out)]
        status = run([*command, "--quiet", *options])
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return status, lines[0]

    return distilled


def test_a_file_without_a_cell(distilled, tmp_path):
    ase.io.write(tmp_path / "plain.xyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]), format="xyz")
    status, text = distilled(tmp_path / "plain.xyz")
    assert status == 2
    assert "expected a periodic cell" in text
    assert "--isolated" in text


def test_an_unknown_model_of_the_service(distilled, file, server):
    status, text = distilled(file, "--url", server.grpc_url, teacher="mace")
    assert status == 1
    assert "UnknownModelError" in text
    assert "'mace'" in text
    assert "lj" in text


def test_a_service_that_is_not_there(distilled, file):
    options = ["--url", "grpc://127.0.0.1:1", "--timeout", "0.3"]
    status, text = distilled(file, *options)
    assert status == 1
    assert "127.0.0.1:1" in text


def test_a_spec_that_cannot_be_loaded_is_quoted_from_the_service(distilled, file, tmp_path):
    status, text = distilled(file, "--no-compile", teacher="toy:no-such-toy")
    assert status == 1
    assert "the service of the teacher 'toy:no-such-toy' failed" in text
    assert "toy:lennard-jones" in text  # one of those that there are
    assert str(tmp_path / "out" / "logs" / "teacher.log") in text


def test_a_teacher_without_conservative_forces(distilled, file):
    potential = Soft()
    potential.outputs = frozenset({"energy", "direct_forces"})
    potentials = {"direct": loaded(potential, "direct")}
    with serve(potentials) as server:
        status, text = distilled(file, "--url", server.grpc_url, teacher="direct")
    assert status == 1
    assert "no conservative_forces" in text


def test_a_system_that_the_teacher_refuses(distilled, tmp_path, server, argon):
    argon.info["charge"] = 1
    ase.io.write(tmp_path / "ion.xyz", argon)
    status, text = distilled(tmp_path / "ion.xyz", "--url", server.grpc_url)
    assert status == 1
    assert "the teacher refuses system 0 of the file" in text
    assert "charge" in text


def test_too_few_minutes_for_a_slow_teacher(distilled, file, server):
    status, text = distilled(file, "--url", server.grpc_url, "--minutes", "0.0001")
    assert status == 2
    assert "--minutes: expected at least" in text


def test_a_file_in_place_of_the_folder(distilled, file, tmp_path):
    (tmp_path / "out").write_text("")
    status, text = distilled(file)
    assert status == 2
    assert "expected a folder, got a file" in text


def test_several_systems_are_all_checked(model, argon):
    seconds = check_teacher(model, [argon, argon[:8]])
    assert seconds > 0.0
    hollow = Atoms("Ar2", [[0, 0, 0], [0, 0, 0]], cell=np.eye(3) * 20, pbc=True)
    hollow.info["spin"] = 3
    with pytest.raises(Exception, match="system 1 of the file"):
        check_teacher(model, [argon, hollow])


def test_a_training_with_too_little_data_is_quoted(argon, tmp_path):
    (tmp_path / "data").mkdir()
    ase.io.write(tmp_path / "data" / "round-0.xyz", argon)
    with pytest.raises(Exception, match="the training failed: ValueError") as failed:
        train(
            tmp_path / "train",
            tmp_path / "data",
            DistillSettings(teacher="a:b"),
            about={"teacher": "a:b", "teacher_sha256": ""},
            start=None,
            minutes=1.0,
            log=tmp_path / "train.log",
            progress=Progress(is_shown=False),
        )
    assert minutes_needed(failed.value) is None


def test_a_service_of_a_directory_that_is_no_model(tmp_path):
    with (
        pytest.raises(Exception, match=r"no model\.json"),
        running_service({"m": str(tmp_path)}, ServiceOptions(), tmp_path / "log", "the service"),
    ):
        pass


def test_a_student_is_replaced_as_a_whole(tmp_path):
    for text in ("old", "new"):
        model = tmp_path / text
        model.mkdir()
        Path(model / f"{text}.txt").write_text(text)
        export(model, tmp_path / "student")
    assert [path.name for path in (tmp_path / "student").iterdir()] == ["new.txt"]
