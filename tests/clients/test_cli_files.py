"""Tests of the files that commands read and write: selections, formats, and what is in the way."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from tests.clients.serving import ARGON
from tests.systems import molecule
from twinforce.cli import build_parser, run
from twinforce.cli.files import check_outputs, read_atoms

SIZES = (1, 5, 8)


@pytest.fixture(autouse=True)
def address(server, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "systems.xyz"
    ase.io.write(path, [Atoms([ARGON] * n, molecule(n, seed=n).positions) for n in SIZES])
    return path


def refusal(capsys, *arguments):
    assert run([str(each) for each in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("0", [1]),
        ("2", [8]),
        ("-1", [8]),
        ("-3", [1]),
        (":", [1, 5, 8]),
        ("1:3", [5, 8]),
        ("::2", [1, 8]),
        ("::-1", [8, 5, 1]),
        ("-2:", [5, 8]),
    ],
)
def test_a_selection_means_what_it_means_to_ase(file, tmp_path, index, expected):
    for path in (file, tmp_path / "systems.traj"):
        if not path.exists():
            ase.io.write(path, ase.io.read(file, ":"))
        assert [len(atoms) for atoms in read_atoms(path, index)] == expected


@pytest.mark.parametrize("index", ["3", "5", "-4", "3:", "2:1"])
@pytest.mark.parametrize("command", ["predict", "md", "assess"])
def test_a_selection_of_nothing_says_how_many_systems_there_are(file, capsys, command, index):
    line = refusal(capsys, command, file, f"--index={index}")
    assert f"holds no atoms at '{index}'; it holds 3 systems, 0 to 2" in line


@pytest.mark.parametrize("suffix", ["xyz", "traj", "vasp", "json"])
def test_a_file_with_one_system_has_no_sixth(tmp_path, suffix):
    path = tmp_path / f"one.{suffix}"
    ase.io.write(path, Atoms([ARGON], cell=[9, 9, 9], pbc=True))
    assert len(read_atoms(path, "-1")) == len(read_atoms(path, "0")) == 1
    for index in ("5", "-2"):
        with pytest.raises(ValueError, match=f"one.{suffix}: .*it holds one system, 0"):
            read_atoms(path, index)


@pytest.mark.parametrize("index", ["abc", "", "1.5", "::0", "1:2:3:4", "a:b"])
def test_a_selection_that_is_none_is_named(file, capsys, index):
    assert f"--index: expected a number such as -1 or a range such as 0:100:10, got {index!r}" in (
        refusal(capsys, "predict", file, f"--index={index}")
    )


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, capsys):
    paths = {
        "missing.xyz": "no such file",
        "empty.xyz": "cannot be read: Empty file",
        "blank.xyz": "holds no atoms at '-1'; it holds no systems",
        "words.xyz": "cannot be read: ase.io.extxyz: Expected xyz header",
        "broken.traj": "cannot be read: buffer is smaller",
        "folder": "expected a file, got a folder",
    }
    (tmp_path / "empty.xyz").touch()
    (tmp_path / "blank.xyz").write_text("\n\n")
    (tmp_path / "words.xyz").write_text("two\nwords\n")
    (tmp_path / "broken.traj").write_bytes(b"- of Ulm")
    (tmp_path / "folder").mkdir()
    for name, reason in paths.items():
        assert f"{name}: {reason}" in refusal(capsys, "md", tmp_path / name)


def test_a_name_with_an_at_sign_is_a_name(file, tmp_path):
    path = file.rename(tmp_path / "run@1.xyz")
    assert [len(atoms) for atoms in read_atoms(path, ":")] == [*SIZES]


@pytest.mark.parametrize("name", ["out.traj", "OUT.TRAJ", "out.xyz", "out.extxyz", "out"])
def test_predict_writes_the_format_that_the_name_asks_for(file, tmp_path, name):
    output = tmp_path / name
    assert run(["predict", str(file), "--outputs=hybrid", "-o", str(output)]) == 0
    kind = "traj" if name.lower().endswith("traj") else "extxyz"
    written = ase.io.read(output, ":", format=kind)
    assert [len(atoms) for atoms in written] == [*SIZES]
    for atoms in written:
        assert atoms.get_potential_energy() is not None
        values = atoms.info if kind == "traj" else atoms.arrays
        forces = values["conservative_forces"].reshape(-1, 3)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-7)
        assert values["direct_forces"].reshape(-1, 3).shape == forces.shape


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-o", "out.cif"], "out.cif: expected a name that ends in .xyz, .extxyz, .json, .traj"),
        (["-o", "out.xyz.gz"], "out.xyz.gz: expected a name without .gz"),
        (
            ["-o", "out.xyz", "--format=json"],
            "expected a name of a file in json, got one in extxyz",
        ),
        (["-o", "out.traj", "--format=extxyz"], "expected a name of a file in extxyz"),
        (["--format=traj"], "expected an --output, because the format is binary"),
    ],
)
def test_predict_refuses_a_name_of_another_format(
    file, tmp_path, capsys, monkeypatch, options, text
):
    monkeypatch.chdir(tmp_path)
    assert text in refusal(capsys, "predict", file, *options)
    assert [*tmp_path.iterdir()] == [file]


def test_a_format_may_be_chosen_for_any_other_name(file, tmp_path):
    output = tmp_path / "out.dat"
    assert run(["predict", str(file), "--format=json", "-o", str(output)]) == 0
    assert output.read_text().startswith("{")


def test_predict_does_not_write_over_its_input(file, tmp_path, capsys):
    link = tmp_path / "link.xyz"
    os.link(file, link)
    content = file.read_bytes()
    for path in (file, link):
        assert f"--output {path}: expected a file of its own, got the same file as FILE" in (
            refusal(capsys, "predict", file, "-o", path)
        )
    assert file.read_bytes() == content


def test_predict_replaces_a_file_as_a_whole(file, tmp_path):
    """Also through a link, with the permissions of the old file."""
    output, link = tmp_path / "out.xyz", tmp_path / "link.xyz"
    output.write_text("old")
    output.chmod(0o640)
    link.symlink_to(output)
    assert run(["predict", str(file), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert len(ase.io.read(output, ":")) == 3
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    assert run(["predict", str(file), "-o", "/dev/null"]) == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["out.xyz", "out.traj", "out.json"])
def test_a_full_disk_leaves_the_old_file_of_predict(file, tmp_path, name):
    output = tmp_path / name
    output.write_text("old")
    program = [sys.executable, "-m", "twinforce.cli", "predict", str(file), "-o", str(output)]
    full = subprocess.run(
        program,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].endswith(f"File too large: '{output}'")
    assert output.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {file.name, name}


@pytest.mark.parametrize("spelling", ["-o", "--output", "--out"])
def test_the_folder_of_an_assessment_is_an_output_like_others(spelling):
    args = build_parser().parse_args(["assess", "water.xyz", spelling, "folder"])
    assert args.output == Path("folder")


def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_work(tmp_path, monkeypatch):
    """A file that is replaced as a whole needs its folder, even if it can be written to itself."""
    out = tmp_path / "folder" / "out.xyz"
    out.parent.mkdir()
    out.touch()
    can = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != out.parent and can(path, mode))
    check_outputs(tmp_path / "in.xyz", {"--log": out})
    for option in ("--output", "--plot", "--restart"):
        with pytest.raises(PermissionError, match=r"out\.xyz"):
            check_outputs(tmp_path / "in.xyz", {option: out})
