import csv
import json
import re
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tests.clients.serving import ARGON
from tests.ports import free_port
from tests.systems import molecule
from twinforce import Client
from twinforce.ase import system_of
from twinforce.cli import run
from twinforce.md import Instant, conserved_drift, energy_drift


@pytest.fixture
def url(server):
    return server.grpc_url


@pytest.fixture(autouse=True)
def address(url, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", url)
    return url


@pytest.fixture
def file(tmp_path):
    """Three systems; the last one is periodic and has results of another calculator."""
    several = [Atoms([ARGON] * n, molecule(n, seed=n).positions) for n in (1, 5, 8)]
    several[-1].set_cell([7.6] * 3)
    several[-1].pbc = True
    several[-1].calc = SinglePointCalculator(several[-1], energy=1.0, forces=np.ones((8, 3)))
    ase.io.write(tmp_path / "systems.extxyz", several)
    return tmp_path / "systems.extxyz"


def error_line(capsys):
    """Return the only line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    return lines[0]


def test_models_lists_the_served_models(capsys):
    assert run(["models"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "version", "architecture"]
    assert row.startswith("lj ")
    assert "direct_forces" in row


def test_models_describes_one_model(capsys):
    assert run(["models", "lj"]) == 0
    assert "conservative_forces (eV/Å)" in capsys.readouterr().out
    assert run(["models", "lj", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "lj"


def test_predict_writes_extended_xyz_that_ase_reads(address, file, tmp_path):
    output = tmp_path / "out.xyz"
    outputs = "hybrid,atom_energies"
    assert run(["predict", str(file), "--outputs", outputs, "-o", str(output)]) == 0
    given, written = ase.io.read(file, ":"), ase.io.read(output, ":")
    with Client(address) as client:
        expected = client.predict([system_of(each) for each in given], outputs.split(","))
    for atoms, prediction in zip(written, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(prediction.energy, abs=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), prediction.conservative_forces, atol=1e-7)
        np.testing.assert_allclose(
            atoms.arrays["direct_forces"].reshape(-1, 3), prediction.direct_forces, atol=1e-7
        )
        assert atoms.arrays["atom_energies"].shape == (len(atoms),)


def test_predict_writes_json_with_the_names_of_the_api(file, tmp_path, capsys):
    output = tmp_path / "out.json"
    options = ["--index", "-1", "--outputs", "energy,direct_stress"]
    assert run(["predict", str(file), *options, "-o", str(output)]) == 0
    document = json.loads(output.read_text())
    assert document["provenance"]["model"] == "lj"
    (prediction,) = document["predictions"]
    assert set(prediction) == {"energy", "direct_stress"}
    assert np.shape(prediction["direct_stress"]) == (3, 3)
    assert run(["predict", str(file), *options, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] == document["predictions"]


def test_predict_writes_the_stress_that_ase_reads(file, tmp_path):
    output = tmp_path / "out.xyz"
    options = ["--index", "-1", "--outputs", "conservative_stress"]
    assert run(["predict", str(file), *options, "-o", str(output)]) == 0
    atoms = ase.io.read(output)
    full = np.array(atoms.info["conservative_stress"])
    assert atoms.get_stress(voigt=False) == pytest.approx(full, abs=1e-9)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "svr"])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_md_writes_trajectory_log_and_plot(file, tmp_path, ensemble, forces):
    names = {"trajectory": "run.traj", "log": "log.csv", "plot": "plot.png"}
    written = [f"--{option}={tmp_path / name}" for option, name in names.items()]
    moving = ["--steps=20", "--interval=5", f"--ensemble={ensemble}", f"--forces={forces}"]
    assert run(["md", str(file), "--temperature=50", *moving, *written]) == 0
    images = ase.io.read(tmp_path / "run.traj", ":")
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 15, 20]
    assert len(images) == len(rows)
    for image, row in zip(images, rows, strict=True):
        assert image.get_potential_energy() == pytest.approx(float(row["energy_ev"]))
        assert image.get_kinetic_energy() == pytest.approx(float(row["kinetic_energy_ev"]))
    assert float(rows[-1]["time_fs"]) == 10.0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("thermostat", ["svr", "langevin"])
def test_md_continues_from_a_restart_file_bit_for_bit(file, tmp_path, thermostat):
    def log_of(name, *lengths):
        kept = {kind: tmp_path / f"{name}{kind}" for kind in (".csv", ".traj", ".npz")}
        for length in lengths:
            given = [f"--log={kept['.csv']}", f"--trajectory={kept['.traj']}"]
            moving = ["--forces=hybrid", "--inner-steps=4", "--interval=2", f"--steps={length}"]
            thermal = ["--ensemble=npt-isotropic", "--temperature=50", "--pressure=100"]
            thermal.append(f"--thermostat={thermostat}")
            restart = f"--restart={kept['.npz']}"
            assert run(["md", str(file), *moving, *thermal, *given, restart]) == 0
        rows = list(csv.DictReader(kept[".csv"].read_text().splitlines()))
        return rows, ase.io.read(kept[".traj"], ":")

    whole, images = log_of("whole", 48)
    halves, continued = log_of("halves", 16, 48, 48)
    assert [int(row["step"]) for row in whole] == [0, 8, 16, 24, 32, 40, 48]
    assert halves == whole
    assert len(images) == len(continued) == 7
    np.testing.assert_array_equal(images[-1].positions, continued[-1].positions)
    last = whole[-1]
    assert float(last["volume_a3"]) == pytest.approx(images[-1].get_volume())
    assert float(last["volume_a3"]) != float(whole[0]["volume_a3"])
    assert float(last["force_rmse_Ar_ev_per_a"]) == images[-1].info["force_rmse_Ar"]
    assert float(last["correction_work_ev"]) == images[-1].info["correction_work"]
    assert float(last["temperature_Ar_k"]) == pytest.approx(float(last["temperature_k"]))


def test_md_counts_inner_steps_and_rounds_up_to_outer_ones(file, tmp_path, capsys):
    log = tmp_path / "log.csv"
    moving = ["--forces=hybrid", "--inner-steps=8", "--steps=20", "--interval=1"]
    assert run(["md", str(file), *moving, "--temperature=50", f"--log={log}"]) == 0
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [0, 8, 16, 24]
    assert float(rows[-1]["time_fs"]) == 12.0
    assert "24 steps, 0.012 ps" in capsys.readouterr().err


def test_md_is_repeatable_and_continues_with_the_velocities_of_a_file(file, tmp_path):
    def end_of(start, name, *options):
        path = tmp_path / name
        arguments = ["md", str(start), f"--trajectory={path}", "--interval=1", *options]
        assert run([*arguments, "--temperature=50"]) == 0
        return path, ase.io.read(path)

    _, whole = end_of(file, "whole.traj", "--steps=10")
    half, _ = end_of(file, "half.traj", "--steps=5")
    _, continued = end_of(half, "continued.extxyz", "--steps=5")
    _, other = end_of(file, "other.traj", "--steps=10", "--seed=1")
    _, drawn = end_of(half, "drawn.traj", "--steps=5", "--new-velocities")
    np.testing.assert_allclose(continued.positions, whole.positions, atol=1e-7)
    assert not np.allclose(other.positions, whole.positions)
    assert not np.allclose(drawn.positions, whole.positions)


def test_an_interrupted_md_keeps_its_log_and_plot(url, file, tmp_path):
    log, plot = tmp_path / "log.csv", tmp_path / "plot.png"
    program = [sys.executable, "-m", "twinforce.cli", "md", str(file), f"--url={url}"]
    options = ["--steps=1000000", "--temperature=50", f"--log={log}", f"--plot={plot}"]
    running = subprocess.Popen([*program, *options], stderr=subprocess.PIPE, text=True)
    give_up_at = time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "twinforce: interrupted"
    assert plot.exists()


def test_md_warns_of_direct_forces_without_a_thermostat(file, capsys):
    for ensemble, is_warned in (("nve", True), ("svr", False)):
        assert run(["md", str(file), "--forces=direct", f"--ensemble={ensemble}", "--steps=1"]) == 0
        assert ("warning: direct forces" in capsys.readouterr().err) is is_warned


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["predict", "nothing.xyz"], 2, "nothing.xyz: no such file"),
        (["bench", "grpc://127.0.0.1:1"], 2, "give the address of a service with --url"),
        (["predict", __file__], 2, "cannot be read"),
        (["predict", "{file}", "--index", "7:"], 2, "holds no atoms at '7:'"),
        (["predict", "{file}", "--outputs", "forces"], 1, "InvalidRequestError: outputs: expected"),
        (["predict", "{file}", "--outputs", "direct_stress"], 1, r"systems\[0\]"),
        (["predict", "{file}", "--model", "none"], 1, "UnknownModelError: "),
        (["predict", "{file}", "-o", "/nowhere/at/all.xyz"], 2, "No such file or directory"),
        (["md", "{file}", "--index=1", "--ensemble=npt-isotropic"], 2, "pbc: expected a system"),
        (["md", "{file}", "--restart", __file__], 2, "expected a restart file"),
        (["md", "{file}", "--trajectory", "run.pdf"], 2, r"expected a name that ends in \.traj"),
        (["models", "--url", "http:/host"], 2, "expected a url"),
        (
            ["models", "--url", "grpc://127.0.0.1:{port}", "--reconnect-timeout=0.1"],
            1,
            "UnavailableError: cannot reach",
        ),
    ],
)
def test_errors_are_reported_on_one_line(file, capsys, arguments, status, text):
    arguments = [each.format(file=file, port=free_port()) for each in arguments]
    assert run(arguments) == status
    assert re.search(text, error_line(capsys))


def test_wrong_usage_is_refused():
    wrong = (["md", "x", f"--{each}"] for each in ("steps=0", "time-step=nan", "seed=-1"))
    for arguments in (*wrong, ["nothing"], []):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code == 2


def test_the_command_line_runs_as_a_process(url):
    program = [sys.executable, "-m", "twinforce.cli", "models", "--url", url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lj" in done.stdout


def test_a_missing_package_is_reported_with_the_extra_to_install(file, url):
    program = (
        "import sys; sys.modules['ase'] = None; from twinforce.cli import run; "
        f"sys.exit(run(['predict', {str(file)!r}, '--url', {url!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'twinforce[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_drift_of_a_run_is_fitted_with_its_error():
    rng = np.random.default_rng(0)
    times = np.arange(0.0, 2000.0, 0.5)
    energies = 10 * (0.3e-3 * times * 1e-3 + rng.normal(scale=1e-4, size=len(times)))
    run = [
        Instant(i, time, energy, 0.0, 0.0, energy)
        for i, (time, energy) in enumerate(zip(times, energies, strict=True))
    ]
    drift = energy_drift(run, n_atoms=10)
    assert drift.rate == pytest.approx(0.3, abs=4 * drift.error)
    assert 0 < drift.error < 0.02
    assert energy_drift(run[:15], n_atoms=10) is None
    assert conserved_drift(run, n_atoms=10) == drift
