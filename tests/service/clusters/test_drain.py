"""SIGUSR1, which a scheduler sends some time before it takes the machine away."""

import os
import signal
import sys
import threading
import time

import httpx2

from tests.service.test_main import PATIENCE, is_reachable, queue_depth, running, urls
from tests.service.transports.rest_bodies import json_body
from tests.service.troubled import HELIUM
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_service.clusters.drain import DrainTime


def test_accepted_requests_may_take_the_time_that_is_left(troubled_model, gate, monkeypatch):
    """On SIGTERM they would end at once here, because the time to drain is 0 s."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    until = str(time.time() + 1000)
    model = ["--model", f"troubled={troubled_model[0]}", "--max-batch-atoms", "3"]
    flags = [*model, "--drain-timeout", "0", "--drain-until", until]
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
        process.send_signal(signal.SIGUSR1)  # sent to the job and to its steps
        gate.open()
        asking.join(PATIENCE)
        assert replies[0].status_code == 200
        assert len(replies[0].json()["predictions"]) == 4
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


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
