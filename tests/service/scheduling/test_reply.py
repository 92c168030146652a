"""Tests of replies, which behave like futures except that no thread can wait for one."""

import threading
from concurrent.futures import CancelledError, Future, InvalidStateError

import pytest

from twinforce_service.scheduling.reply import Reply

KINDS = pytest.mark.parametrize("make", [Reply, Future])


@KINDS
def test_each_callback_is_called_once_with_the_completed_reply(make):
    reply, seen = make(), []
    reply.add_done_callback(lambda done: seen.append(done.result()))
    assert not reply.done()
    assert reply.set_running_or_notify_cancel()
    assert not reply.cancel()
    reply.set_result(7)
    reply.add_done_callback(lambda done: seen.append(done.result() + 1))
    assert seen == [7, 8]
    assert (reply.done(), reply.cancelled(), reply.exception()) == (True, False, None)
    assert not reply.cancel()
    with pytest.raises(InvalidStateError):
        reply.set_result(8)


@KINDS
def test_the_error_of_a_reply_is_raised_by_result(make):
    reply = make()
    reply.set_exception(ValueError("no"))
    assert isinstance(reply.exception(), ValueError)
    with pytest.raises(ValueError, match="no"):
        reply.result()


@KINDS
def test_a_canceled_reply_accepts_no_answer(make):
    reply, seen = make(), []
    reply.add_done_callback(lambda done: seen.append(done.cancelled()))
    assert reply.cancel()
    assert reply.cancel()
    assert seen == [True]
    assert (reply.done(), reply.cancelled()) == (True, True)
    assert not reply.set_running_or_notify_cancel()
    with pytest.raises(InvalidStateError):
        reply.set_exception(ValueError())
    with pytest.raises(CancelledError):
        reply.result()


def test_the_result_of_a_pending_reply_is_an_error():
    with pytest.raises(InvalidStateError):
        Reply().result()


def test_a_reply_is_either_canceled_or_set_running():
    for _ in range(300):
        reply, begin, won = Reply(), threading.Barrier(2), []

        def cancel(reply=reply, begin=begin, won=won):
            begin.wait()
            won.append(reply.cancel())

        thread = threading.Thread(target=cancel)
        thread.start()
        begin.wait()
        won.append(reply.set_running_or_notify_cancel())
        thread.join()
        assert sorted(won) == [False, True]


@KINDS
def test_a_failing_callback_is_logged_and_does_not_stop_the_others(make, caplog):
    reply, seen = make(), []

    def fail(_):
        raise RuntimeError("the event loop is closed")

    reply.add_done_callback(fail)
    reply.add_done_callback(lambda done: seen.append(done.result()))
    reply.set_result(7)
    reply.add_done_callback(fail)
    assert seen == [7]
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError] * 2
