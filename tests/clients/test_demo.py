import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from tests.clients.serving import ARGON, TOY
from tests.systems import molecule

DEMO = Path(__file__).parents[2] / "demo" / "water_md.py"


@pytest.fixture
def command(tmp_path):
    atoms = Atoms([ARGON] * 27, molecule(27).positions, cell=[11.4] * 3, pbc=True)
    ase.io.write(tmp_path / "start.extxyz", atoms)
    options = [f"--model={TOY}", f"--start={tmp_path / 'start.extxyz'}"]
    return [sys.executable, str(DEMO), *options, f"--plot={tmp_path / 'out' / 'plot.png'}"]


def test_the_demo_prints_a_table_and_saves_a_plot(command, tmp_path):
    done = subprocess.run(
        [*command, "--seconds=600", "--max-steps=60"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    for kind in ("conservative", "direct"):
        n_steps, steps_per_second, milliseconds, drift = lines[kind].split()[1:5]
        assert int(n_steps) >= 20
        assert float(steps_per_second) > 0
        assert float(milliseconds) > 0
        assert drift != "-"
    assert int(lines["MTS-8"].split()[1]) >= 20
    assert lines["F"].startswith("F = ")
    assert (tmp_path / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_its_service(command, number):
    demo = subprocess.Popen(
        [*command, "--seconds=300", "--max-steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = iter(demo.stdout.readline, "")
    assert any("grpc://" in line for line in lines)
    (server,) = children_of(demo.pid)
    assert any("NVE" in line for line in lines)
    demo.send_signal(number)
    assert demo.wait(300) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    demo.stdout.close()
    assert is_gone(server)


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def is_gone(pid, seconds=60):
    give_up_at = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < give_up_at:
        time.sleep(0.1)
    return not Path(f"/proc/{pid}").exists()
