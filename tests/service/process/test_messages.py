"""Tests of the messages between processes: they are decoded unchanged."""

import socket
from dataclasses import fields

import numpy as np
import pytest

from tests.potentials import Soft, loaded
from tests.systems import crystal, molecule
from twinforce_dynamics.disagreement import SystemDisagreement
from twinforce_proto import (
    OUTPUTS,
    OverloadedError,
    Prediction,
    System,
    Timings,
    UnsupportedElementError,
)
from twinforce_service.callers.caller import Caller
from twinforce_service.engine.report import BatchReport, DeviceMemory, Usage
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.request_messages import requests_from_message, requests_to_frames
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows, Request
from twinforce_service.version import provenance_of

PROVENANCE = provenance_of(loaded(Soft(), "soft").info)
REPORT = BatchReport(
    model="soft",
    n_systems=2,
    n_atoms=7,
    queue_s=(0.1, 1 / 3),
    compute_s=2 / 3,
    disagreements=(SystemDisagreement(0.1, {1: 0.2, 18: 1 / 7}),),
    usage=(Usage("ada", 1, 3, 1 / 7), Usage("10.0.0.1", 1, 4, 0.5)),
    began=1e6 / 7,
    fill=1 / 9,
    n_padding=3,
    memory=DeviceMemory("cuda:0", 1, 2, 3),
    traces=(("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 1 / 3),),
)


def received(frames):
    """Return a message as the other process receives it."""
    return messages.read([memoryview(bytes(frame)) for frame in frames])


def assert_same_system(one, other):
    for field in fields(System):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(ours, theirs)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            assert not theirs.flags.writeable


@pytest.mark.parametrize(
    "system",
    [
        crystal(27),
        molecule(1),
        System([8, 1], [[0, 0, 0], [0, 0, 1e-300]], charge=-1, spin_multiplicity=2),
        System([8], [[0, 0, 0]], np.diag([9.1, 0, 1 / 3]), [True, False, True], charge=0.1),
    ],
)
def test_requests_are_decoded_unchanged(system):
    first = Request(
        "soft",
        system,
        frozenset(OUTPUTS),
        1e5 / 7,
        system_index=3,
        request_id="ü",
        urgency=5,
        caller=Caller("ada", 2.5, True),
        connection="10.0.0.1:5000",
        n_pairs=12,
        trace=REPORT.traces[0][0],
    )
    second = JacobianRequest(
        model="soft", system=molecule(4), outputs=frozenset({"direct_forces"}), rows=range(3, 9)
    )
    message = received(requests_to_frames([(2**60, first), (1, second)]))
    assert message.kind is messages.Kind.REQUESTS
    (number, one), (other_number, other) = requests_from_message(message)
    assert (number, other_number) == (2**60, 1)
    assert_same_system(first.system, one.system)
    assert_same_system(second.system, other.system)
    for name in (
        "model",
        "outputs",
        "deadline",
        "system_index",
        "request_id",
        "urgency",
        "caller",
        "connection",
        "n_pairs",
        "trace",
    ):
        assert getattr(one, name) == getattr(first, name)
        assert getattr(other, name) == getattr(second, name)
    assert (type(one), type(other)) == (Request, JacobianRequest)
    assert other.rows == range(3, 9)


def test_predictions_are_decoded_unchanged():
    generator = np.random.default_rng(0)
    full = Prediction(
        energy=-1 / 3,
        atom_energies=generator.normal(size=5),
        conservative_forces=generator.normal(size=(5, 3)),
        direct_forces=generator.normal(size=(10, 3))[::2],
        conservative_stress=generator.normal(size=(3, 3)),
        direct_stress=generator.normal(size=(3, 3)),
        timings=Timings(0.1, 2 / 3, 2, 7),
    )
    part = Prediction(direct_forces=np.zeros((2, 3)), timings=Timings(1 / 3, 2 / 3, 2, 7))
    message = received(messages.answers_to_frames([(7, full), (8, part)], REPORT))
    answers, report = messages.answers_from_message(message, {"soft": PROVENANCE})
    assert report == REPORT
    assert [number for number, _ in answers] == [7, 8]
    for sent, (_, got) in zip((full, part), answers, strict=True):
        for name in OUTPUTS:
            np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
        assert (got.timings, got.provenance) == (sent.timings, PROVENANCE)


def test_rows_of_a_jacobian_are_decoded_unchanged():
    rows = JacobianRows(np.random.default_rng(0).normal(size=(4, 9)), timings=Timings(0.1, 2, 1, 3))
    report = BatchReport("soft", 1, 3, (0.1,), 2.0, n_rows=4)
    message = received(messages.answers_to_frames([(0, rows)], report))
    [(_, got)], got_report = messages.answers_from_message(message, {"soft": PROVENANCE})
    np.testing.assert_array_equal(got.values, rows.values)
    assert (got.timings, got.provenance, got_report) == (rows.timings, PROVENANCE, report)


def test_errors_are_decoded_unchanged():
    errors = [
        UnsupportedElementError("no neon", system_index=2, field="atomic_numbers"),
        OverloadedError("later", retry_after=1.5),
    ]
    message = received(messages.errors_to_frames(enumerate(errors)))
    got = [error for _, error in messages.errors_from_message(message)]
    assert [type(each) for each in got] == [type(each) for each in errors]
    assert [each.to_dict() for each in got] == [each.to_dict() for each in errors]


def test_declarations_of_models_are_decoded_unchanged():
    infos = [loaded(Soft(), name).info for name in ("one", "other")]
    assert messages.models_from_message(received(messages.models_to_frames(infos))) == infos


def test_large_arrays_are_not_copied():
    system = crystal(8)
    head, *arrays = requests_to_frames([(0, Request("soft", system, frozenset(OUTPUTS)))])
    assert any(np.shares_memory(each, system.positions) for each in arrays)
    message = messages.read([memoryview(head), *map(memoryview, arrays)])
    [(_, request)] = requests_from_message(message)
    assert np.shares_memory(request.system.positions, system.positions)


@pytest.mark.parametrize("n_answers", [1, 2])
def test_answers_whose_columns_are_adjacent_in_memory_arrive_unchanged(n_answers):
    generator = np.random.default_rng(5)
    sent = [
        Prediction(direct_forces=np.asfortranarray(generator.normal(size=(4, 3))))
        for _ in range(n_answers)
    ]
    one, other = map(Channel, socket.socketpair())
    try:
        one.send(messages.answers_to_frames(enumerate(sent), REPORT))
        (message,) = other.receive()
    finally:
        one.close()
        other.close()
    answers, _ = messages.answers_from_message(messages.read(message), {"soft": PROVENANCE})
    for (_, answer), expected in zip(answers, sent, strict=True):
        np.testing.assert_array_equal(answer.direct_forces, expected.direct_forces)
