"""Tests of the messages of runs between processes: they are decoded to the last bit."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from tests.potentials import Soft, loaded
from tests.service.process.test_messages import REPORT, received
from tests.systems import crystal, molecule
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.ensembles import NPT, SVR
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Integrator, Start
from twinforce_dynamics.steps import complete
from twinforce_dynamics.trajectory import Snapshot, Trajectory
from twinforce_proto import InvalidRequestError, Prediction
from twinforce_service.callers.caller import Caller
from twinforce_service.engine.runs import Run
from twinforce_service.process import messages
from twinforce_service.process.run_messages import (
    run_from_message,
    run_to_frames,
    update_from_message,
    update_to_frames,
)
from twinforce_service.scheduling.request import Walker
from twinforce_service.version import provenance_of

PROVENANCE = provenance_of(loaded(Soft(), "soft").info)
GENERATOR = np.random.default_rng(0)
THERMOSTAT = SVR(temperature_k=300.1, relaxation_fs=7)
HOT = NPT(thermostat=THERMOSTAT, pressure_bar=1.1, relaxation_fs=500)


def start(n_atoms=8, **how):
    velocities = GENERATOR.normal(size=(n_atoms, 3))
    masses = GENERATOR.uniform(1, 40, n_atoms)
    return Start(crystal(n_atoms), velocities, Integrator(**how), masses=masses, random=3)


def checkpoint():
    forces = GENERATOR.normal(size=(8, 3))
    prediction = Prediction(energy=-1 / 3, conservative_forces=forces, direct_forces=forces / 3)
    begin = start()
    state = complete(Trajectory(begin).begin(), lambda *_: prediction, lambda *_: prediction)
    return Checkpoint("soft", "0" * 64, begin, state, 24)


def assert_same(one, other):
    """Compare two values and everything in them, to the last bit."""
    if hasattr(one, "__dataclass_fields__"):
        assert type(one) is type(other)
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert_same(list(one.items()), list(other.items()))
    elif isinstance(one, list | tuple):
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other)
    else:
        assert one == other


@pytest.mark.parametrize(
    "wanted",
    [
        PropagateRequest("soft", start(inner_steps=3, ensemble=HOT), 12, 6),
        PropagateRequest("", start(force_kind="direct", inner_steps=1, time_step_fs=1 / 3), 2**40),
        PropagateRequest("soft", checkpoint().to_bytes(), 24, 8),
        RelaxRequest("soft", molecule(5), fmax=1 / 3, max_steps=7, interval=2, fixed_atoms=[1, 3]),
    ],
    ids=["start", "direct", "checkpoint", "relaxation"],
)
def test_a_run_is_decoded_to_the_last_bit(wanted):
    updates = []
    sent = Run(wanted, print, 3, 1e5 / 7, "ü", Walker(), 6, Caller("ada", 2.5, True), "10.0.0.1:5")
    message = received(run_to_frames(2**60, sent))
    number, got = run_from_message(message, lambda *values: updates.append(values))
    assert number == 2**60
    for name in (
        "request", "credit", "deadline", "request_id", "walker", "urgency", "caller", "connection",
        "n_atoms",
    ):  # fmt: skip
        assert_same(getattr(sent, name), getattr(got, name))
    got.emit("something", is_last=True)
    assert updates == [(2**60, "something", True)]


@pytest.mark.parametrize("has_checkpoint", [True, False])
@pytest.mark.parametrize("has_disagreement", [True, False])
@pytest.mark.parametrize("provenance", [PROVENANCE, None])
def test_a_snapshot_is_decoded_to_the_last_bit(has_disagreement, has_checkpoint, provenance):
    origin = checkpoint()
    snapshot = Trajectory(origin.start).snapshot(origin.state, 24, 0.1)
    sent = replace(
        snapshot,
        checkpoint=origin.to_bytes() if has_checkpoint else b"",
        provenance=provenance,
        species_temperatures={"H": 1 / 3, "Ar": math.nan},
        disagreement=snapshot.disagreement if has_disagreement else None,
    )
    message = received(update_to_frames(5, sent, is_last=True))
    number, got, is_last = update_from_message(message)
    assert (number, is_last, type(got)) == (5, True, Snapshot)
    assert_same(sent, got)


def test_a_report_of_a_relaxation_is_decoded_to_the_last_bit():
    sent = Relaxed(
        step=3,
        positions=GENERATOR.normal(size=(4, 3)),
        energy=-1 / 3,
        largest_force=1 / 7,
        driven_by="direct",
        is_converged=False,
        is_last=False,
        provenance=PROVENANCE,
    )
    message = received(update_to_frames(5, sent, is_last=False))
    number, got, is_last = update_from_message(message)
    assert (number, is_last) == (5, False)
    assert_same(sent, got)


def test_reports_without_answers_are_decoded_unchanged():
    message = received(messages.reports_to_frames([REPORT, REPORT]))
    assert messages.reports_from_message(message) == [REPORT, REPORT]


def test_bytes_that_are_not_a_checkpoint_are_refused():
    with pytest.raises(InvalidRequestError):
        Run(PropagateRequest("soft", b"\xff", 4), print, 1)
