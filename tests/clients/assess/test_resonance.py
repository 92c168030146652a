"""Tests of the heating by outer steps, predicted from one simulation."""

import numpy as np
import pytest
from ase import units

from twinforce.assess.budget import NEVER, Deadline
from twinforce.assess.folder import as_json
from twinforce.assess.report.content import resonance_of
from twinforce.assess.report.figures import draw_resonance
from twinforce.assess.report.tables import resonance_table
from twinforce.assess.units.recording import Layout, Record
from twinforce.assess.units.resonance import (
    drifts_of_multiples,
    predicted_drifts,
    resonance_unit,
    spectra_of_power,
)
from twinforce.assess.units.start import KEY as START
from twinforce.assess.units.start import starting_atoms

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


@pytest.mark.parametrize("stride", [2, 4])
def test_corrections_every_few_steps_predict_the_heating_of_their_multiples(stride):
    rng = np.random.default_rng(0)
    size, step_fs = 2.0e-3, stride * STEP_FS
    power = size * rng.standard_normal(100_000)
    found = drifts_of_multiples(power, step_fs, stride, 300.0, 10)
    assert list(found) == [m * stride for m in range(2, 16 // stride + 1)]
    each = 1e6 * size**2 * step_fs / (KT * 10)
    for inner_steps, drift in found.items():
        # Of white noise, all of the m - 1 frequencies between 0 and 1/(s dt) heat by a half each.
        expected = (inner_steps / stride - 1) / 2 * each
        assert drift["value"] == pytest.approx(expected, rel=0.05)
        assert drift["is_reliable"]


def test_a_vibration_heats_where_its_frequency_meets_a_multiple():
    # Power that oscillates with 4 fs heats outer steps of 4 fs, which see it stand still, and of
    # 8 fs, but not of 6 fs.
    times = 2.0 * np.arange(20_000)
    power = 1e-3 * np.sin(2 * np.pi * times / 4.0 + 0.7)
    found = {m: each["value"] for m, each in drifts_of_multiples(power, 2.0, 4, 300.0, 10).items()}
    assert min(found[8], found[16]) > 1e3 * found[12]


def test_a_unit_with_a_stride_records_the_power_and_predicts_multiples(
    subject, conditions, started
):
    unit = resonance_unit(0.8, conditions, 2)
    assert unit.key == "resonance:2"
    first = unit.work(subject, started, Deadline(0.0))
    assert not first.is_done
    whole = unit.work(subject, started, NEVER)
    assert whole.is_done
    assert [int(m) for m in whole.values["drifts"]] == [4, 6, 8, 10, 12, 14, 16]
    atoms = starting_atoms(subject, started.parent / START)
    prediction = subject.client.predict(atoms, "hybrid", subject.info.name)
    difference = prediction.conservative_forces - prediction.direct_forces
    expected = (difference * atoms.get_velocities()).sum() * units.fs
    layout = Layout.of(atoms, 4.0, has_motion=False, has_power=True)
    series = Record(started, layout).series(("power", "work"))
    assert series["power"][0] == pytest.approx(expected, rel=1e-9)
    # The work of an outer step is the mean of the power at both of its ends.
    work = 4.0 * (series["power"][1:] + series["power"][:-1]) / 2
    np.testing.assert_allclose(np.diff(series["work"]), work, rtol=0.05, atol=1e-9)


def test_the_shortest_stride_counts_where_several_predict():
    drift = {"value": 1.0, "error": 0.1, "n_independent": 9.0, "is_reliable": True}
    report = {
        "pieces": {
            "resonance": {
                "resonance": {"stride": 1, "drifts": {"8": drift | {"value": 2.0}}},
                "resonance:4": {"stride": 4, "drifts": {"8": drift, "16": drift}},
            }
        }
    }
    drifts = resonance_of(report)["drifts"]
    assert {m: each["value"] for m, each in drifts.items()} == {"8": 2.0, "16": 1.0}
