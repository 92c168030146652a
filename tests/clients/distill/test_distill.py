"""Tests of whole distillations of a toy model: rounds, interruptions, both kinds of teachers."""

import json
import os
import signal
import subprocess
import sys

import ase.io
import numpy as np
import pytest

from tests.clients.distill.conftest import shaken_argon
from tests.clients.serving import serve
from tests.waiting import wait_until
from twinforce import Client
from twinforce.cli import run

OPTIONS = [
    *("--temperature", "40", "--time-step", "2", "--rounds", "2", "--seed", "3"),
    *("--minutes", "2", "--no-compile", "--dtype", "float64", "--quiet"),
]


def arguments(file, out, teacher="toy:lennard-jones"):
    return ["distill", str(file), "--teacher", teacher, "--out", str(out), *OPTIONS]


def report_in(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished distillation, and its file."""
    folder = tmp_path_factory.mktemp("distilled")
    ase.io.write(folder / "argon.xyz", shaken_argon())
    assert run(arguments(folder / "argon.xyz", folder / "out")) == 0
    return folder


@pytest.mark.slow
def test_a_teacher_becomes_a_hybrid(finished):
    out = finished / "out"
    report = report_in(out)
    errors = report["errors"]["1"]["direct_forces"]["rmse"]
    assert errors < 0.5 * report["errors"]["1"]["size"]["rmse"]
    assert report["teacher"]["given"] == "toy:lennard-jones"
    assert [each["inner_steps"] for each in report["rounds"]] == [1, 4]
    assert all(each["n_train"] >= 32 and each["n_test"] for each in report["rounds"])
    assert report["evidence"]["step_ms"]["conservative"] > 0
    # No network is faster than this formula, and the tool says so.
    assert report["recommendation"]["inner_steps"] is None
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "Use the teacher alone" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_the_hybrid_is_served_as_the_report_says(finished):
    out = finished / "out"
    spec = f"conservative:toy:lennard-jones+direct:{out / 'student'}"
    assert spec in report_in(out)["commands"]["serve"]
    with serve(model={"hybrid": spec}) as server, Client(server.grpc_url) as client:
        start = ase.io.read(out / "start.xyz")
        found = client.predict(start, "hybrid")
    difference = found.direct_forces - found.conservative_forces
    assert np.sqrt(np.mean(difference**2)) < 0.5 * found.conservative_forces.std()
    assert start.has("momenta")


@pytest.mark.slow
def test_the_tests_are_of_runs_that_nothing_was_trained_on(finished):
    for number in (0, 1):
        examples = ase.io.read(finished / "out" / "data" / f"round-{number}.xyz", ":")
        train, test = (
            [each for each in examples if each.info["split"] == split]
            for split in ("train", "test")
        )
        assert (
            min(np.abs(one.positions - other.positions).max() for one in test for other in train)
            > 1e-3
        )
        groups = [each.info["group"] for each in examples]
        assert all(groups.count(group) <= 2 for group in groups)
        assert not {each.info["group"] for each in test} & {each.info["group"] for each in train}


@pytest.mark.slow
def test_a_finished_distillation_is_not_repeated(finished, capsys):
    out = finished / "out"
    files = [*out.glob("data/*.xyz"), *out.glob("rounds/*/train/model/*"), *out.glob("student/*")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run(arguments(finished / "argon.xyz", out)) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert "report.html" in capsys.readouterr().out


@pytest.mark.slow
def test_other_arguments_and_other_weights_are_refused(finished, capsys):
    out, file = finished / "out", finished / "argon.xyz"
    assert run([*arguments(file, out), "--temperature", "50"]) == 2
    assert "temperatures_k" in capsys.readouterr().err
    state = json.loads((out / "state.json").read_text())
    state["phases"]["sample-0"]["facts"]["teacher"]["sha256"] = "0" * 64
    state["phases"]["sample-1"]["is_done"] = False
    changed = finished / "changed"
    changed.mkdir()
    (changed / "state.json").write_text(json.dumps(state))
    assert run([*arguments(file, changed)]) == 2
    assert "began with the weights 000000000000" in capsys.readouterr().err


def begin(file, out):
    command = [sys.executable, "-m", "twinforce.cli", *arguments(file, out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def children_of(pid):
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.split()
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def interrupt(process, number, is_reached):
    """Interrupt a distillation once it has got so far; all that it started must end with it."""
    wait_until(lambda: is_reached() or process.poll() is not None, 600.0)
    assert process.poll() is None, process.stderr.read()
    others = children_of(process.pid)
    assert others
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 143)
    process.stderr.close()
    wait_until(lambda: all(map(is_gone, others)))


@pytest.mark.slow
def test_interrupted_in_each_phase_it_goes_on_and_leaves_nothing_behind(file, tmp_path):
    out = tmp_path / "out"
    data = {}
    for number, reached in (
        (signal.SIGKILL, "logs/teacher.log"),
        (signal.SIGTERM, "logs/train-0.log"),
        (signal.SIGTERM, "logs/student.log"),
        (signal.SIGKILL, "logs/train-1.log"),
        (signal.SIGKILL, "assessment"),
    ):
        interrupt(begin(file, out), number, (out / reached).exists)
        for path in out.glob("data/*.xyz"):
            data.setdefault(path, path.read_bytes())
    spent_s = json.loads((out / "clock.json").read_text())["spent_s"]
    assert run(arguments(file, out)) == 0
    assert report_in(out)["wall_s"] > spent_s
    assert {path: path.read_bytes() for path in data} == data


@pytest.mark.slow
def test_the_teacher_may_be_a_model_of_a_running_service(file, tmp_path):
    with serve() as server:
        command = [*arguments(file, tmp_path / "out", "lj"), "--url", server.grpc_url]
        assert run(command) == 0
    report = report_in(tmp_path / "out")
    assert report["evidence"]["step_ms"]["conservative"] > 0
    assert report["lambda"] is not None
    assert any(server.grpc_url in each for each in report["not_shown"])
    assert "SPEC_OF_THE_TEACHER" in report["commands"]["serve"]
    assert "assess" not in report["commands"]
