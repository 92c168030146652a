"""Tests that a run of `twinforce md` that was killed continues as if it had not been."""

import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import threading

import ase.io
import numpy as np
import pytest
from ase import Atoms

from tests.clients.serving import serve
from tests.potentials import NEON, Soft, loaded
from tests.systems import molecule
from twinforce.cli import run

STEPS, INTERVAL = 12, 3
ALL = 10**6


class Held(Soft):
    """A potential that evaluates neon only as often as it is allowed to."""

    def __init__(self):
        super().__init__()
        self.allowed = threading.Semaphore(ALL)  # for the warm-up
        self.reached = threading.Semaphore(0)

    def forward_heads(self, batch, *, direct):
        if (batch.atomic_numbers == NEON).any() and not self.allowed.acquire(blocking=False):
            allowed = self.allowed
            self.reached.release()
            allowed.acquire()
        return super().forward_heads(batch, direct=direct)

    def allow(self, n_evaluations):
        """Allow so many evaluations from now on."""
        self.allowed = threading.Semaphore(n_evaluations)

    def wait_until_held(self):
        assert self.reached.acquire(timeout=120)

    def go_on(self):
        """End the evaluation that is held, whose caller may be gone, and allow all others."""
        self.allowed.release(ALL)


@pytest.fixture(scope="module")
def held():
    return Held()


@pytest.fixture(autouse=True)
def no_evaluation_is_left(held):
    """A run that a failed test left behind comes to its end."""
    yield
    held.go_on()


@pytest.fixture(scope="module")
def url(held):
    with serve({"soft": loaded(held)}) as server:
        yield server.grpc_url


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.extxyz"
    ase.io.write(path, Atoms([NEON] * 4, molecule(4).positions))
    return path


def command(start, url, folder, trajectory, *options, steps=STEPS):
    files = {"trajectory": trajectory, "log": "run.csv", "restart": "run.npz"}
    return [
        "md",
        str(start),
        f"--url={url}",
        "--ensemble=langevin",
        "--temperature=40",
        f"--steps={steps}",
        f"--interval={INTERVAL}",
        *[f"--{option}={folder / name}" for option, name in files.items()],
        *options,
    ]


def started(arguments, **options):
    program = [sys.executable, "-m", "twinforce.cli", *arguments]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def whole(held, url, start, tmp_path_factory):
    """Return a function that returns the files of an uninterrupted run."""
    folders = {}

    def files_of(trajectory, *options):
        if (trajectory, options) not in folders:
            folder = folders[trajectory, options] = tmp_path_factory.mktemp("whole")
            held.allow(ALL)
            assert run(command(start, url, folder, trajectory, *options)) == 0
        return folders[trajectory, options]

    return files_of


def assert_same(folder, expected, trajectory):
    assert (folder / "run.csv").read_text() == (expected / "run.csv").read_text()
    frames, others = (ase.io.read(each / trajectory, ":") for each in (folder, expected))
    assert len(frames) == len(others) == STEPS // INTERVAL + 1
    for frame, other in zip(frames, others, strict=True):
        np.testing.assert_array_equal(frame.positions, other.positions)
        np.testing.assert_array_equal(frame.get_momenta(), other.get_momenta())
        assert frame.get_potential_energy() == other.get_potential_energy()


@pytest.mark.parametrize("trajectory", ["run.traj", "run.extxyz"])
@pytest.mark.parametrize("options", [(), ("--on-server",)])
def test_a_run_that_was_killed_twice_continues(
    held, url, start, whole, tmp_path, trajectory, options
):
    expected = whole(trajectory, *options)
    arguments = command(start, url, tmp_path, trajectory, *options)
    for n_allowed in (8, 2):  # within the third interval, and soon after the run continued
        held.allow(n_allowed)
        killed = started(arguments)
        held.wait_until_held()
        killed.kill()
        killed.communicate()
        held.go_on()
        append(tmp_path / trajectory, b"torn")
        append(tmp_path / "run.csv", b"12,6.0,-0")
    held.allow(ALL)
    assert run(arguments) == 0
    assert_same(tmp_path, expected, trajectory)


def append(path, content):
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.usefixtures("hangups_count")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_after_its_step(held, url, start, whole, tmp_path, number):
    expected = whole("run.extxyz")
    arguments = command(start, url, tmp_path, "run.extxyz")
    held.allow(5)  # the start and four steps
    stopped = started(arguments)
    held.wait_until_held()
    stopped.send_signal(number)
    held.go_on()
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 128 + number
    word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}.get(number, "hung up")
    assert err.splitlines()[-1] == f"twinforce: {word}"
    assert "run.npz: saved at step 5" in err
    assert run(arguments) == 0
    assert_same(tmp_path, expected, "run.extxyz")


def test_a_second_signal_ends_a_run_at_once(held, url, start, whole, tmp_path):
    expected = whole("run.traj")
    arguments = command(start, url, tmp_path, "run.traj")
    held.allow(8)
    stopped = started(arguments)
    held.wait_until_held()
    stopped.send_signal(signal.SIGTERM)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)  # while the evaluation is held
    assert stopped.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "run.npz: saved at step 6" in err
    held.go_on()
    assert run(arguments) == 0
    assert_same(tmp_path, expected, "run.traj")


def test_a_signal_is_enough_if_the_service_does_not_answer(held, url, start, tmp_path):
    """As when the service is gone; the run on the server ends at once, that on the client soon."""
    held.allow(3)
    stopped = started(command(start, url, tmp_path, "run.traj", "--on-server"))
    held.wait_until_held()
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=120)
    assert stopped.returncode == 143
    held.go_on()


@pytest.mark.parametrize("full", ["run.traj", "run.extxyz", "run.csv", "run.npz"])
def test_a_full_disk_is_named_and_leaves_files_that_continue(
    held, url, start, whole, tmp_path, full
):
    """The limit is on the size of a file, and the smallest one that it stops is named."""
    trajectory = "run.traj" if full == "run.traj" else "run.extxyz"
    expected = whole(trajectory)
    held.allow(ALL)
    limit = (expected / full).stat().st_size - 20
    arguments = command(start, url, tmp_path, trajectory)
    process = started(arguments, preexec_fn=lambda: limit_files(limit))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "File too large" in err.splitlines()[-1]
    assert str(tmp_path) in err.splitlines()[-1]
    assert not (tmp_path / "run.npz.part").exists()
    if (tmp_path / trajectory).stat().st_size:
        assert len(ase.io.read(tmp_path / trajectory, ":")) >= 1
    assert run(arguments) == 0
    assert_same(tmp_path, expected, trajectory)


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_run_whose_service_is_lost_continues(start, whole, tmp_path):
    expected = whole("run.extxyz")
    held = Held()
    held.allow(8)
    with serve({"soft": loaded(held)}) as server:
        arguments = command(start, server.grpc_url, tmp_path, "run.extxyz")
        lost = started(arguments)
        held.wait_until_held()
        held.go_on()
    with contextlib.suppress(subprocess.TimeoutExpired):
        lost.communicate(timeout=1)
    lost.kill()
    lost.communicate()
    held = Held()
    held.allow(ALL)
    with serve({"soft": loaded(held)}) as server:
        assert run(command(start, server.grpc_url, tmp_path, "run.extxyz")) == 0
    assert_same(tmp_path, expected, "run.extxyz")


@pytest.fixture
def half(held, url, start, tmp_path):
    """A folder with the files of half a run."""
    held.allow(ALL)
    assert run(command(start, url, tmp_path, "run.extxyz", steps=6)) == 0
    return tmp_path


def test_files_that_are_not_those_of_the_run_are_refused(half, url, start, capsys):
    def refused(trajectory="run.extxyz"):
        capsys.readouterr()
        files = {path: path.read_bytes() for path in half.iterdir() if path.is_file()}
        assert run(command(start, url, half, trajectory)) == 2
        assert {path: path.read_bytes() for path in half.iterdir() if path.is_file()} == files
        (line,) = capsys.readouterr().err.splitlines()
        return line

    content = (half / "run.extxyz").read_bytes()
    (half / "run.extxyz").write_bytes(content[:-1])
    assert "run.extxyz: expected at least the" in refused()
    (half / "run.extxyz").write_bytes(content.replace(b"Ne", b"He"))
    assert "run.extxyz: expected the file that the restart file belongs to" in refused()
    (half / "run.extxyz").unlink()
    assert "run.extxyz: expected the file that the restart file belongs to, got none" in refused()
    (half / "other.extxyz").write_bytes(b"another run" * 1000)
    assert "other.extxyz: expected the file that the" in refused("other.extxyz")
    (half / "run.extxyz").write_bytes(content)
    (half / "run.csv").write_text("step\n")
    assert "run.csv: expected at least" in refused()


def test_a_run_can_continue_in_a_new_file_and_in_one_that_was_renamed(half, url, start, whole):
    expected = whole("run.extxyz")
    shutil.copytree(half, copy := half.parent / "copy", dirs_exist_ok=True)
    (copy / "run.extxyz").rename(copy / "renamed.extxyz")
    assert run(command(start, url, copy, "renamed.extxyz")) == 0
    (copy / "renamed.extxyz").rename(copy / "run.extxyz")
    assert_same(copy, expected, "run.extxyz")
    assert run(command(start, url, half, "second.extxyz")) == 0
    with (half / "run.extxyz").open("a") as file:
        file.write((half / "second.extxyz").read_text())
    assert_same(half, expected, "run.extxyz")


def test_the_files_of_a_finished_run_stay_as_they_are(half, url, start, capsys):
    before = {path: path.read_bytes() for path in half.glob("run.[ce]*")}
    assert run(command(start, url, half, "run.extxyz", steps=6)) == 0
    assert {path: path.read_bytes() for path in half.glob("run.[ce]*")} == before
    assert "6 steps, 0.003 ps" in capsys.readouterr().err


def test_an_ignored_signal_stays_ignored(held, url, start, tmp_path):
    """`nohup` makes a run deaf to SIGHUP."""
    held.allow(4)
    deaf = started(
        command(start, url, tmp_path, "run.traj"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    held.wait_until_held()
    deaf.send_signal(signal.SIGHUP)
    held.go_on()
    deaf.communicate(timeout=120)
    assert deaf.returncode == 0
