"""SIGUSR1, which a scheduler sends some time before it takes the machine away."""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.service.test_main import PATIENCE, is_reachable, queue_depth, running, urls
from tests.service.transports.rest_bodies import json_body
from tests.service.troubled import HELIUM
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce_service.clusters.drain import DrainTime


@contextmanager
def draining(model, gate, drain_timeout):
    """A server that drains after SIGUSR1, with three of four systems waiting; and its replies."""
    until = str(time.time() + 1000)
    flags = ["--model", f"troubled={model}", "--max-batch-atoms", "3"]
    flags += ["--drain-timeout", drain_timeout, "--drain-until", until]
    with running(*flags) as (process, lines), gate.closed():
        rest_url, _ = urls(lines)
        replies = []

        def ask():
            systems = [molecule(3, seed=seed, element=HELIUM) for seed in range(4)]
            url = f"{rest_url}/v1/models/troubled/predict"
            replies.append(httpx2.post(url, json=json_body(*systems), timeout=PATIENCE))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: queue_depth(rest_url) == 3)  # one of the four is on the device
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: not is_reachable(rest_url))
        yield process, replies
        asking.join(PATIENCE)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


@pytest.fixture(autouse=True)
def _same_imports(monkeypatch):
    """The server finds the model in the folders of this process."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def test_accepted_requests_may_take_the_time_that_is_left(troubled_model, gate):
    """On SIGTERM they would end at once here, because the time to drain is 0 s."""
    with draining(troubled_model[0], gate, "0") as (process, replies):
        process.send_signal(signal.SIGUSR1)  # sent to the job and to its steps
        gate.open()
    assert replies[0].status_code == 200
    assert len(replies[0].json()["predictions"]) == 4


def test_sigterm_lets_a_drain_go_on(troubled_model, gate):
    with draining(troubled_model[0], gate, str(PATIENCE)) as (process, replies):
        process.send_signal(signal.SIGTERM)
        gate.open()
    assert replies[0].status_code == 200


def test_sigterm_during_a_drain_leaves_it_no_more_than_the_usual_time(troubled_model, gate):
    with draining(troubled_model[0], gate, "0") as (process, replies):
        process.send_signal(signal.SIGTERM)  # the gate stays closed
        process.wait(PATIENCE)
    assert replies[0].status_code == 503


def test_sigterm_during_a_drain_bounds_the_time_for_a_client_that_does_not_read():
    systems = [crystal(1000, seed=seed) for seed in range(4)]
    body = json.dumps(json_body(*systems)).encode()
    head = "POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    flags = ["--model", "lj=toy:lennard-jones", "--header-timeout", "1000"]
    flags += ["--drain-timeout", "0", "--drain-until", str(time.time() + 1000)]
    with running(*flags) as (process, lines), socket.socket() as client:
        rest_url, _ = urls(lines)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        address = urlsplit(rest_url)
        client.connect((address.hostname, address.port))
        client.sendall(head.encode() + body)
        assert b" 200 " in client.recv(64)  # and no more is read
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: not is_reachable(rest_url))
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert process.returncode == 0


def test_a_process_ends_in_time_whatever_holds_it_up(tmp_path):
    """It says so to its callers before, and cannot leave its address file, which is locked."""
    flags = ["--model", "lj=toy:lennard-jones", "--drain-timeout", "0"]
    flags += ["--address-file", str(tmp_path / "job.json")]
    with running(*flags) as (process, lines):
        rest_url, _ = urls(lines)
        with (tmp_path / ".job.json.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_reachable(rest_url))
            assert process.poll() is None
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "the service has not stopped in time and ends now" in err


def test_the_time_counts_from_the_begin_of_the_stop():
    later = DrainTime(30.0)
    assert later.seconds == 30
    later.begin()
    left = later.seconds
    assert 20 < left < 30
    later.begin()
    assert later.seconds <= left


def test_the_time_that_is_left_ends_before_the_machine_is_taken_away():
    later = DrainTime(30.0, time.time() + 120)
    assert later.seconds == 30
    later.use_what_is_left()
    assert 90 < later.seconds <= 100
    too_late = DrainTime(30.0, time.time() + 5)
    too_late.use_what_is_left()
    assert too_late.seconds == 0
    unknown = DrainTime(30.0)
    unknown.use_what_is_left()
    assert unknown.seconds == 30
    unknown.shorten()
    assert 20 < unknown.seconds <= 30


def test_a_time_that_is_shortened_is_never_longer_than_what_is_left():
    for left, expected in [(120, 30), (40, 20)]:
        later = DrainTime(30.0, time.time() + left)
        later.use_what_is_left()
        assert not later.shortened.is_set()
        later.shorten()
        assert expected - 10 < later.seconds <= expected
        assert later.shortened.is_set()
