"""Who owns a device hears what comes, whether it is free or busy; nothing is lost in between."""

import asyncio
import socket
import threading
import time

import pytest

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
    channels[0].close()  # the other one is read by a thread until the process ends


def post_to(channel):
    post, come = Mailbox(channel), []
    post.start(lambda message: come.append(message.head))
    return post, come


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_comes_wakes_who_waits(ends):
    ours, theirs = ends
    post, come = post_to(theirs)
    threading.Timer(0.05, ours.send, [messages.plain(Kind.CANCEL, 1)]).start()
    post.wait(PATIENCE)
    assert come == [[1]]


def test_it_can_be_rung_before_or_meanwhile_and_from_any_thread(ends):
    post, come = post_to(ends[1])
    post.notify()
    post.wait(PATIENCE)
    post.notify()  # in the thread that waits: without a detour
    post.wait(PATIENCE)
    threading.Timer(0.05, post.notify).start()
    post.wait(PATIENCE)
    started = time.monotonic()
    post.wait(0.02)
    assert 0.01 < time.monotonic() - started < PATIENCE
    post.wait(0)
    assert come == []


def test_what_comes_while_a_batch_takes_long_does_not_wait_for_its_end(ends):
    ours, theirs = ends
    post, come = post_to(theirs)
    post.wait(0)
    for _ in range(2):  # also when it was sleeping for long
        come.clear()
        ours.send(messages.plain(Kind.CANCEL, 1))
        wait_for(lambda: come == [[1]])
        post.wait(0)
        time.sleep(0.1)


def test_what_does_not_fit_into_the_socket_leaves_while_a_batch_runs(ends):
    ours, theirs = ends
    post, _ = post_to(theirs)
    post.wait(0)
    message = [b"x" * 3_000_000]
    for _ in range(5):
        theirs.send(message)
    n_come = 0
    while n_come < 5:
        n_come += len(ours.receive())
        time.sleep(0.001)
    post.wait(0)


@pytest.mark.parametrize("has_loop", [False, True])
def test_whoever_listens_hears_all_and_sends_what_had_no_room(has_loop):
    ours, theirs = (Channel(each) for each in socket.socketpair())
    loop = asyncio.new_event_loop() if has_loop else None
    if loop is not None:
        turning = threading.Thread(target=loop.run_forever)
        turning.start()
    heard, threads = [], set()

    def attend():
        threads.add(threading.current_thread())
        try:
            heard.extend(len(frames[0]) for frames in ours.receive())
        except EOFError:
            return True
        return False

    listening = threading.Thread(target=ChannelReader(ours, attend, loop).run)
    listening.start()
    for size in (1, 2, 5_000_000):
        theirs.send([bytes(size)])
    while not theirs.flush():
        time.sleep(0.001)
    wait_for(lambda: heard == [1, 2, 5_000_000])
    for _ in range(5):
        ours.send([bytes(3_000_000)])
    n_come = 0
    while n_come < 5:
        n_come += len(theirs.receive())
        time.sleep(0.001)
    theirs.close()
    listening.join(PATIENCE)
    assert not listening.is_alive()
    if loop is not None:
        assert threads == {turning}
        loop.call_soon_threadsafe(loop.stop)
        turning.join()
        loop.close()
    ours.close()


def test_what_goes_wrong_in_the_loop_is_raised_by_who_runs():
    ours, theirs = (Channel(each) for each in socket.socketpair())

    async def run():
        def attend():
            raise ValueError("no")

        theirs.send([b"x"])
        await asyncio.to_thread(ChannelReader(ours, attend, asyncio.get_running_loop()).run)

    with pytest.raises(ValueError, match="no"):
        asyncio.run(run())
    ours.close()
    theirs.close()


def test_where_the_loop_is_closed_a_thread_goes_on():
    ours, theirs = (Channel(each) for each in socket.socketpair())
    loop = asyncio.new_event_loop()
    loop.close()
    theirs.send([b"x"])
    theirs.close()
    heard = []

    def attend():
        try:
            heard.extend(ours.receive())
        except EOFError:
            return True
        return False

    ChannelReader(ours, attend, loop).run()
    assert len(heard) == 1
    ours.close()
