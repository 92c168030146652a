"""Tests of what `twinforce md` says while it runs and at its end."""

import io
import re
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms

from tests.clients.serving import ARGON
from tests.systems import molecule
from twinforce.cli import run
from twinforce.cli.progress import ProgressMeter, say
from twinforce.md import Instant, MDSettings, fit_drift
from twinforce.md.averages import BlockAverages
from twinforce.md.summary import RunSummary
from twinforce_dynamics.disagreement import Disagreement


@pytest.fixture(autouse=True)
def address(server, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "start.xyz"
    ase.io.write(path, Atoms([ARGON] * 8, molecule(8).positions))
    return path


class Clock:
    """A clock that advances by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def instant(step):
    return Instant(step, step * 0.5, -1.0, 0.5, 300.0, -0.5)


@pytest.mark.parametrize("n_states", [1, 15, 64, 1000, 5003])
def test_averages_over_blocks_are_those_over_all_states(n_states):
    values = np.random.default_rng(0).normal(size=(n_states, 2))
    averages = BlockAverages()
    for row in values:
        averages.add(row)
    assert averages.mean(1).value == pytest.approx(values[:, 1].mean())
    length = max(2 ** int(np.ceil(np.log2((n_states + 1) / 64))), 1)
    n_blocks = n_states // length
    blocks = values[: n_blocks * length].reshape(n_blocks, length, 2).mean(axis=1)
    np.testing.assert_allclose(averages.blocks, blocks)
    assert len(averages.blocks) < 64


def test_the_error_of_a_mean_is_that_of_independent_values():
    errors, means = [], []
    for seed in range(200):
        averages = BlockAverages()
        for value in np.random.default_rng(seed).normal(size=256):
            averages.add([value])
        means.append(averages.mean(0).value)
        errors.append(averages.mean(0).error)
    assert np.mean(errors) == pytest.approx(1 / 16, rel=0.1)
    assert np.std(means) == pytest.approx(1 / 16, rel=0.2)


def test_the_summary_has_speed_temperature_drift_and_evaluations():
    clock = Clock()
    settings = MDSettings(forces="hybrid", inner_steps=4, ensemble="nve")
    summary = RunSummary(settings, 10, clock)
    rng = np.random.default_rng(0)
    times, energies = [], []
    for index in range(41):
        time, energy = 2.0 * index, 0.01 * 2.0 * index * 1e-3 * 10 + rng.normal(scale=1e-6)
        times.append(time)
        energies.append(energy)
        temperature = 300.0 + (10.0 if index % 2 else -10.0)
        disagreement = Disagreement(0.25, {}, 0.0, 0.0)
        summary.add(
            Instant(4 * index, time, 0.0, 0.0, temperature, energy, disagreement=disagreement)
        )
        clock.now += 0.5
    clock.now += 1000.0  # what comes after the last step does not count
    speed, temperature, drift, evaluations = summary.lines()
    assert speed == "160 steps, 0.08 ps, in 20.0 s: 8 steps/s, 0.346 ns/day"
    assert re.match(
        r"temperature 299\.8 ± \d\.\d K on average, final temperature 290\.0 K", temperature
    )
    expected = fit_drift(np.array(times), np.array(energies), 10)
    assert expected.rate == pytest.approx(10.0, rel=1e-2)
    assert drift == (
        f"drift of the conserved energy {expected.rate:+.3f} ± {expected.error:.3f} "
        "meV/atom/ps (the total energy)"
    )
    assert evaluations.startswith("120 steps with direct forces only, 40 with both kinds; ")
    assert "they differ by 0.2500 ± 0.0000 eV/Å" in evaluations


def test_the_summary_of_no_step_and_of_one_divides_by_nothing():
    clock = Clock()
    summary = RunSummary(MDSettings(), 10, clock)
    assert summary.lines() == []
    summary.add(instant(0))
    assert summary.lines() == [
        "0 steps, 0 ps",
        "temperature 300.0 K on average, final temperature 300.0 K",
    ]
    summary.add(instant(1))  # the clock has not moved
    assert summary.lines()[0] == "1 step, 0.0005 ps, in 0 s"
    assert summary.lines()[2:] == [
        "too few states for the drift of the conserved energy",
        "1 step with conservative forces",
    ]


def test_short_times_and_single_steps_are_shown_as_such():
    clock = Clock()
    summary = RunSummary(MDSettings(), 10, clock)
    summary.add(instant(100))
    clock.now += 0.025
    summary.add(instant(101))
    assert summary.lines()[0] == (
        "101 steps, 0.0505 ps, of which 1 step now, in 0.025 s: 40 steps/s, 1.73 ns/day"
    )


def test_a_run_that_continued_counts_its_own_steps():
    clock = Clock()
    summary = RunSummary(MDSettings(), 10, clock)
    summary.add(instant(100))
    clock.now += 2.0
    summary.add(instant(300))
    assert summary.lines()[0] == (
        "300 steps, 0.15 ps, of which 200 steps now, in 2.0 s: 100 steps/s, 4.32 ns/day"
    )


@pytest.mark.parametrize("options", [[], ["--on-server"], ["--forces=hybrid"]])
def test_md_ends_with_a_summary_and_a_quiet_one_says_nothing(file, capsys, options):
    arguments = ["md", str(file), "--steps=48", "--interval=1", *options]
    assert run(arguments) == 0
    err = capsys.readouterr().err
    assert re.search(r"48 steps, 0.024 ps, in [\d.]+ s: \S+ steps/s, \S+ ns/day", err)
    assert re.search(r"temperature [\d.]+( ± [\d.]+)? K on average", err)
    assert "drift of the conserved energy" in err
    assert run([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run([*arguments[:2], "--steps=1", "--ensemble=nve", *options]) == 0


def test_without_a_terminal_a_line_is_shown_twice_a_minute(capsys):
    clock = Clock()
    with ProgressMeter(1000, "steps", initial=100, clock=clock) as meter:
        for n_done in range(110, 1001, 10):
            clock.now += 1.0
            meter.update(n_done, "300 K")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "400 of 1000 steps, 10 steps/s, 60 s left, 300 K",
        "700 of 1000 steps, 10 steps/s, 30 s left, 300 K",
        "1000 of 1000 steps, 10 steps/s, 0 s left, 300 K",
    ]
    with ProgressMeter(10, "steps", is_quiet=True, clock=clock) as meter:
        clock.now += 100.0
        meter.update(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "left"), [(30.0, "4 min"), (400.0, "60 min"), (2000.0, "5 h"), (40_000.0, "4 d")]
)
def test_the_time_that_is_left_has_a_handy_unit(capsys, seconds, left):
    clock = Clock()
    with ProgressMeter(100, "systems", clock=clock) as meter:
        clock.now += seconds
        meter.update(10)
    assert f", {left} left" in capsys.readouterr().err
    with ProgressMeter(100, "systems", clock=clock) as meter:
        clock.now += seconds
        meter.update(0)
    assert capsys.readouterr().err == "0 of 100 systems, 0 systems/s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_counts_whole_outer_steps(file, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(["md", str(file), "--steps=10", "--forces=hybrid", "--inner-steps=8"]) == 0
    assert "| 16/16 [" in terminal.getvalue()


def test_on_a_terminal_there_is_a_bar_with_the_time_that_is_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressMeter(4, "steps") as meter:
        for n_done in range(1, 5):
            meter.update(n_done, "300 K")
    assert "4/4" in terminal.getvalue()
    assert "300 K" in terminal.getvalue()


def test_a_run_goes_on_if_nobody_can_read_its_messages(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    say("hello")
