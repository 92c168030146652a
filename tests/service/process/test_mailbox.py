"""Tests of the mailbox of an engine process, and of the reader in the API process."""

import asyncio
import socket
import threading
import time

import pytest

from tests.waiting import wait_until
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.channel_reader import ChannelReader
from twinforce_service.process.mailbox import Mailbox
from twinforce_service.process.messages import Kind

PATIENCE = 60.0


@pytest.fixture
def ends():
    channels = [Channel(each) for each in socket.socketpair()]
    yield channels
    channels[0].close()  # a thread reads the other end until the process exits


def mailbox_on(channel):
    mailbox, received = Mailbox(channel), []
    mailbox.start(lambda message: received.append(message.head))
    return mailbox, received


def test_a_message_wakes_the_waiting_thread(ends):
    ours, theirs = ends
    mailbox, received = mailbox_on(theirs)
    threading.Timer(0.05, ours.send, [messages.plain(Kind.CANCEL, 1)]).start()
    mailbox.wait(PATIENCE)
    assert received == [[1]]


def test_a_notification_ends_the_wait_from_any_thread_and_in_advance(ends):
    mailbox, received = mailbox_on(ends[1])
    mailbox.notify()
    mailbox.wait(PATIENCE)
    mailbox.notify()  # in the waiting thread, which needs no pipe
    mailbox.wait(PATIENCE)
    threading.Timer(0.05, mailbox.notify).start()
    mailbox.wait(PATIENCE)
    started = time.monotonic()
    mailbox.wait(0.02)
    assert 0.01 < time.monotonic() - started < PATIENCE
    mailbox.wait(0)
    assert received == []


def test_messages_are_handled_during_a_long_batch(ends):
    ours, theirs = ends
    mailbox, received = mailbox_on(theirs)
    mailbox.wait(0)
    for _ in range(2):  # the second time after the second thread was idle
        received.clear()
        ours.send(messages.plain(Kind.CANCEL, 1))
        wait_until(lambda: received == [[1]])
        mailbox.wait(0)
        time.sleep(0.1)


def test_unsent_bytes_are_sent_during_a_batch(ends):
    ours, theirs = ends
    mailbox, _ = mailbox_on(theirs)
    mailbox.wait(0)
    message = [b"x" * 3_000_000]
    for _ in range(5):
        theirs.send(message)
    n_received = 0
    while n_received < 5:
        n_received += len(ours.receive())
        time.sleep(0.001)
    mailbox.wait(0)


@pytest.mark.parametrize("has_loop", [False, True])
def test_a_reader_receives_all_messages_and_sends_unsent_bytes(has_loop):
    ours, theirs = (Channel(each) for each in socket.socketpair())
    loop = asyncio.new_event_loop() if has_loop else None
    if loop is not None:
        loop_thread = threading.Thread(target=loop.run_forever)
        loop_thread.start()
    received, threads = [], set()

    def receive():
        threads.add(threading.current_thread())
        try:
            received.extend(len(frames[0]) for frames in ours.receive())
        except EOFError:
            return True
        return False

    reading = threading.Thread(target=ChannelReader(ours, receive, loop).run)
    reading.start()
    for size in (1, 2, 5_000_000):
        theirs.send([bytes(size)])
    while not theirs.flush():
        time.sleep(0.001)
    wait_until(lambda: received == [1, 2, 5_000_000])
    for _ in range(5):
        ours.send([bytes(3_000_000)])
    n_received = 0
    while n_received < 5:
        n_received += len(theirs.receive())
        time.sleep(0.001)
    theirs.close()
    reading.join(PATIENCE)
    assert not reading.is_alive()
    if loop is not None:
        assert threads == {loop_thread}
        loop.call_soon_threadsafe(loop.stop)
        loop_thread.join()
        loop.close()
    ours.close()


def test_an_exception_in_the_event_loop_is_raised_by_run():
    ours, theirs = (Channel(each) for each in socket.socketpair())

    async def run():
        def receive():
            raise ValueError("no")

        theirs.send([b"x"])
        await asyncio.to_thread(ChannelReader(ours, receive, asyncio.get_running_loop()).run)

    with pytest.raises(ValueError, match="no"):
        asyncio.run(run())
    ours.close()
    theirs.close()


def test_a_thread_reads_the_channel_if_the_event_loop_is_closed():
    ours, theirs = (Channel(each) for each in socket.socketpair())
    loop = asyncio.new_event_loop()
    loop.close()
    theirs.send([b"x"])
    theirs.close()
    received = []

    def receive():
        try:
            received.extend(ours.receive())
        except EOFError:
            return True
        return False

    ChannelReader(ours, receive, loop).run()
    assert len(received) == 1
    ours.close()
