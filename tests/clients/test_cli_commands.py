"""Tests of the commands around a simulation: `twinforce bench`, `server` and `completion`."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import ase.io
import pytest
from ase import Atoms

from tests.clients.serving import ARGON, serve
from tests.potentials import Soft, loaded
from tests.systems import molecule
from twinforce.cli import build_parser, run
from twinforce.cli.progress import suggest


class Slow(Soft):
    """A potential that takes a tenth of a second."""

    def forward_heads(self, batch, *, direct):
        time.sleep(0.1)
        return super().forward_heads(batch, direct=direct)


@pytest.fixture
def file(tmp_path):
    ase.io.write(tmp_path / "system.xyz", Atoms([ARGON] * 8, molecule(8, seed=1).positions))
    return tmp_path / "system.xyz"


def test_bench_measures_every_kind_of_forces_and_walkers_at_once(url, file, capsys):
    given = ["bench", str(file), f"--url={url}", "--seconds=0.2", "--walkers=3"]
    assert run([*given, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "lj"
    assert report["n_atoms"] == 8
    assert list(report["kinds"]) == ["energy", "direct", "conservative", "hybrid"]
    for kind in [*report["kinds"].values(), report["walkers"]]:
        assert kind["n"] >= 1
        assert 0 < kind["p10_ms"] <= kind["median_ms"] <= kind["p90_ms"]
        assert 0 < kind["compute_ms"] < kind["p90_ms"]
        assert kind["batch"] >= 1
    median = {name: kind["median_ms"] for name, kind in report["kinds"].items()}
    ratio = median["conservative"] / median["direct"]
    assert report["conservative_over_direct"] == pytest.approx(ratio)
    outer = 3 * median["direct"] + median["hybrid"]
    speed = report["speed_of_inner_steps"]["4"]
    assert speed == pytest.approx(4 * median["conservative"] / outer)
    assert report["walkers"]["n_walkers"] == 3
    assert report["walkers"]["kind"] == "hybrid"
    assert report["walkers"]["per_s"] == pytest.approx(
        report["walkers"]["n"] / report["walkers"]["s"]
    )
    assert report["walkers"]["s"] >= 0.2


def test_bench_writes_a_table(url, file, capsys):
    assert run(["bench", str(file), f"--url={url}", "--seconds=0.1", "--walkers=0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("lj on cpu, 8 atoms, one walker:\n")
    assert re.search(r"^conservative +\d+\.\d +\d+\.\d\d", text, flags=re.MULTILINE)
    assert "walkers at once" not in text


def test_bench_ends_with_the_error_of_the_service(choosy_url, tmp_path, capsys):
    gold = tmp_path / "gold.xyz"
    ase.io.write(gold, Atoms("Au2", [[0, 0, 0], [2.5, 0, 0]]))
    assert run(["bench", str(gold), f"--url={choosy_url}", "--seconds=0.1", "-q"]) == 1
    assert "atomic_numbers" in capsys.readouterr().err


def test_server_is_the_server_with_all_its_arguments():
    program = [sys.executable, "-m", "twinforce.cli", "server"]
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: twinforce-server [options]")
    wrong = [*program, "--no-water"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "there is nothing to serve" in done.stderr


def test_server_gets_the_signals_of_its_process():
    program = [sys.executable, "-m", "twinforce.cli", "server", "--no-water", "--rest-port=0"]
    model = ["--model", "lj=toy:lennard-jones", "--grpc-port=0", "--compile=off"]
    with subprocess.Popen([*program, *model], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("TwinForce")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0


def test_server_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torch" else object()
    )
    assert run(["server"]) == 2
    expected = "twinforce: the service needs torch: pip install 'twinforce[server]'\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completion_knows_every_command(shell, capsys):
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    (commands,) = [each.choices for each in build_parser()._actions if each.choices]
    assert all(name in script for name in commands)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], {"models", "predict", "md", "relax", "server"}),
        (["rel"], {"relax"}),
        (["relax", "--fm"], {"--fmax"}),
        (["relax", "--forces", ""], {"hybrid", "conservative", "direct"}),
        (["relax", "sys"], {"system.xyz"}),
        (["predict", "--key-file", "sys"], {"system.xyz"}),
    ],
)
def test_bash_completes_commands_options_values_and_files(file, capsys, words, expected):
    assert run(["completion", "bash"]) == 0
    script = file.parent / "completion.bash"
    script.write_text(capsys.readouterr().out)
    quoted = " ".join(f"'{word}'" for word in ["twinforce", *words])
    asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_twinforce"
    program = f'source {script}; {asked}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, cwd=file.parent, check=True
    )
    assert expected <= set(done.stdout.split())


def test_the_next_command_is_shown_on_a_terminal_only(capfd, monkeypatch):
    args = build_parser().parse_args(["models", "--url", "grpc://host:1"])
    suggest(args, ["models"])
    assert capfd.readouterr().err == ""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        suggest(args, ["predict", "my water.xyz"])
        expected = b"next: twinforce predict 'my water.xyz' --url grpc://host:1\r\n"
        assert os.read(ours, 100) == expected
    os.close(ours)


def test_the_rate_of_walkers_counts_the_time_until_the_last_reply(file, capsys):
    with serve({"slow": loaded(Slow())}, engine="thread") as server:
        given = [f"--url={server.grpc_url}", "--seconds=0.01", "--walkers=2", "--json", "-q"]
        assert run(["bench", str(file), *given]) == 0
    walkers = json.loads(capsys.readouterr().out)["walkers"]
    assert walkers["s"] >= 0.1
    assert walkers["per_s"] <= walkers["n"] / 0.1
