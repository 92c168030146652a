"""The messages of an engine's process: answers that cannot be sent are errors of their requests."""

import socket
from concurrent.futures import Future

import numpy as np
import pytest

from tests.service.process.test_messages import PROVENANCE, REPORT
from twinforce_proto import Prediction, PredictionError
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.engine_process import Outbox
from twinforce_service.process.messages import Kind


@pytest.fixture
def channels():
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def keep(outbox, number, answer):
    future = Future()
    future.set_result(answer)
    outbox.keep_answer(number, future)


def test_answers_that_cannot_be_sent_are_errors_and_the_next_ones_arrive(channels, caplog):
    one, other = channels
    outbox = Outbox(one.send)
    good = Prediction(direct_forces=np.ones((2, 3)))
    bad = Prediction(direct_forces=np.ones((2, 2)))  # cannot be joined with the others
    keep(outbox, 3, good)
    keep(outbox, 4, bad)
    outbox.send_batch(REPORT)
    keep(outbox, 5, good)
    outbox.send_batch(REPORT)
    failed, answered = (messages.read(frames) for frames in other.receive())
    assert failed.kind is Kind.ERRORS
    errors = dict(messages.errors_from_message(failed))
    assert sorted(errors) == [3, 4]
    assert all(isinstance(error, PredictionError) for error in errors.values())
    assert "cannot be sent" in str(errors[4])
    assert "cannot be sent" in caplog.text
    answers, _ = messages.answers_from_message(answered, {"soft": PROVENANCE})
    assert [number for number, _ in answers] == [5]
