"""A reply does what a future does, except that nobody can wait for it."""

import threading
from concurrent.futures import CancelledError, Future, InvalidStateError

import pytest

from twinforce_service.scheduling.reply import Reply

KINDS = pytest.mark.parametrize("make", [Reply, Future])


@KINDS
def test_callbacks_are_called_once_with_the_answer_there(make):
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
def test_an_error_is_raised_by_who_asks(make):
    reply = make()
    reply.set_exception(ValueError("no"))
    assert isinstance(reply.exception(), ValueError)
    with pytest.raises(ValueError, match="no"):
        reply.result()


@KINDS
def test_what_was_given_up_is_answered_no_more(make):
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


def test_there_is_nothing_to_see_before_it_is_done():
    with pytest.raises(InvalidStateError):
        Reply().result()


def test_either_who_cancels_or_who_answers_is_first():
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
def test_a_callback_that_fails_is_logged_and_stops_nobody(make, caplog):
    reply, seen = make(), []

    def fail(_):
        raise RuntimeError("the event loop is closed")

    reply.add_done_callback(fail)
    reply.add_done_callback(lambda done: seen.append(done.result()))
    reply.set_result(7)
    reply.add_done_callback(fail)
    assert seen == [7]
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError] * 2
