"""Tests of the heating by outer steps, predicted from one simulation."""

import numpy as np
import pytest
from ase import units

from twinforce.assess.budget import NEVER, Deadline
from twinforce.assess.folder import as_json
from twinforce.assess.report.figures import draw_resonance
from twinforce.assess.report.tables import resonance_table
from twinforce.assess.units.resonance import predicted_drifts, resonance_unit, spectra_of_power

STEP_FS, KT = 0.5, units.kB * 300.0


def work_of(power):
    """Return the accumulated work, in which a step counts the mean power at both of its ends."""
    return np.concatenate([[0.0], np.cumsum((power[1:] + power[:-1]) / 2)]) * STEP_FS


def drifts_of(power):
    frequencies, spectra = spectra_of_power(work_of(power), STEP_FS)
    return predicted_drifts(frequencies, spectra, STEP_FS, 300.0, 10)


def test_white_noise_heats_equally_at_each_multiple_of_the_frequency():
    rng = np.random.default_rng(0)
    size = 2.0e-3  # eV/fs; its spectrum is size² dt at all frequencies
    found = drifts_of(size * rng.standard_normal(200_000))
    each = 1e6 * size**2 * STEP_FS / (KT * 10)
    for inner_steps, n_multiples in ((3, 1), (4, 1), (8, 3), (16, 7)):
        drift = found[inner_steps]
        assert drift["value"] == pytest.approx(n_multiples * each, rel=0.05)
        assert drift["is_reliable"]
        assert drift["error"] < 0.05 * drift["value"]


@pytest.mark.parametrize("inner_steps", [4, 5, 7, 10])
def test_a_vibration_heats_at_outer_steps_of_its_period(inner_steps):
    times = STEP_FS * np.arange(20_000)
    found = drifts_of(1e-3 * np.sin(2 * np.pi * times / (inner_steps * STEP_FS)))
    values = {other: each["value"] for other, each in found.items()}
    # Multiples of M share its frequency among their harmonics.
    resonant = {other for other in values if other % inner_steps == 0}
    assert min(values[each] for each in resonant) > 1e3 * max(
        value for other, value in values.items() if other not in resonant
    )


def test_the_spectrum_integrates_to_the_mean_square_power():
    times = STEP_FS * np.arange(40_000)
    power = 3e-3 * np.cos(2 * np.pi * times / 4.1) + 1e-3 * np.cos(2 * np.pi * times / 9.7)
    frequencies, spectra = spectra_of_power(work_of(power), STEP_FS)
    both_sides = 2.0 * spectra.mean(axis=0).sum() * frequencies[1]
    assert both_sides == pytest.approx((power**2).mean(), rel=1e-3)


def test_the_unit_continues_where_it_stopped_and_is_reported(subject, conditions, started):
    unit = resonance_unit(0.6, conditions)
    first = unit.work(subject, started, Deadline(0.0))
    assert not first.is_done
    assert "drifts" not in first.values
    whole = unit.work(subject, started, NEVER)
    assert whole.is_done
    assert whole.values["picoseconds"] == pytest.approx(0.6)
    assert all(each["value"] >= 0.0 for each in whole.values["drifts"].values())
    measured = {"rate": 0.5, "error": 0.1}
    report = as_json(
        {
            "conditions": {"time_step_fs": conditions.time_step_fs},
            "thresholds": {"max_drift": 0.05},
            "pieces": {
                "resonance": {"resonance": dict(whole.values)},
                "nve": {"nve:hybrid-8": {"drift": measured}},
            },
        }
    )
    rows = {row[0]: row for row in resonance_table(report).rows}
    assert rows["8"][1] == "16"
    assert rows["8"][2] == "2085"
    assert rows["8"][4] == "0.50 ± 0.10"
    assert rows["7"][4] == "-"
    assert draw_resonance(report) is not None


def test_a_simulation_shorter_than_a_window_predicts_no_drift():
    frequencies, spectra = spectra_of_power(np.zeros(9), STEP_FS)
    assert predicted_drifts(frequencies, spectra, STEP_FS, 300.0, 10)[8]["value"] == 0.0
