"""Tests of channels: messages arrive unchanged, and sending never blocks."""

import select
import socket

import numpy as np
import pytest

from twinforce_service.process.channel import Channel


@pytest.fixture
def ends():
    channels = [Channel(each) for each in socket.socketpair()]
    yield channels
    for each in channels:
        each.close()


def received(channel, n_messages, sender=None):
    messages = []
    while len(messages) < n_messages:
        if sender is not None:
            sender.flush()
        poll = select.poll()  # unlike select(), for descriptors of any number
        poll.register(channel, select.POLLIN)
        assert poll.poll(60_000)
        messages += channel.receive()
    return [[bytes(frame) for frame in message] for message in messages]


def messages_of(sizes):
    generator = np.random.default_rng(0)
    return [[generator.bytes(size) for size in message] for message in sizes]


@pytest.mark.parametrize(
    "sizes",
    [
        [[0]],
        [[1, 0, 7, 8, 9]],
        [[3], [5, 5], [11]],
        [[70_000, 1]],
        [[262_144], [1], [262_136], [262_143, 2]],
        [[10_000_000, 3, 5_000_000]],
        [[2] * 40_000],
        [[100] * 1500, [200_000] * 3],
    ],
    ids=len,
)
def test_messages_of_all_sizes_arrive_unchanged(ends, sizes):
    one, other = ends
    messages = messages_of(sizes)
    for message in messages:
        one.send(message)
    assert received(other, len(messages), one) == messages
    assert not one.has_unsent


def test_many_small_messages_arrive_in_order(ends):
    one, other = ends
    messages = messages_of([[size % 50, size % 3] for size in range(3000)])
    for message in messages:
        one.send(message)
    assert received(other, len(messages), one) == messages


def test_received_arrays_are_aligned_read_only_views(ends):
    one, other = ends
    arrays = [np.arange(5, dtype=np.int32), np.ones((4, 3)), np.zeros((0, 3)), np.eye(200)]
    one.send([b"head", *arrays])
    ((head, *frames),) = other.receive()
    assert bytes(head) == b"head"
    for frame, array in zip(frames, arrays, strict=True):
        found = np.frombuffer(frame, array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable
        assert found.flags.aligned


def test_sending_never_blocks_and_unsent_bytes_are_reported_once(ends):
    one, other = ends
    calls = []
    one.on_unsent = lambda: calls.append(one.has_unsent)
    message = [bytes(1_000_000)]
    for _ in range(20):
        one.send(message)
    assert calls == [True]
    assert received(other, 20, one) == [message] * 20
    assert one.flush()


def test_the_end_is_reported_after_all_messages(ends):
    one, other = ends
    one.send([b"last"])
    one.close()
    one.send([b"lost"])
    assert received(other, 1) == [[b"last"]]
    with pytest.raises(EOFError):
        other.receive()
    other.send([b"unread"])
    assert not other.has_unsent


def test_an_idle_channel_has_no_messages(ends):
    assert ends[0].receive() == []
