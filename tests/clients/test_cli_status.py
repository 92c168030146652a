"""Tests of `twinforce status`."""

import json
import threading
from dataclasses import replace

import pytest

from tests.clients.serving import free_port, serve
from tests.potentials import Soft, loaded
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import (
    CallerUsage,
    Client,
    DeviceStatus,
    ModelInfo,
    ModelStatus,
    ServiceStatus,
    UnavailableError,
)
from twinforce.cli import run
from twinforce.cli.status import report_of, text_of

INFO = ModelInfo(
    name="water",
    version="1",
    sha256="ab",
    architecture="hybrid_net",
    cutoff=4.5,
    elements=(1, 8),
    dtype="float32",
    device="cuda:0",
    outputs=("energy", "conservative_forces", "direct_forces"),
)
BEFORE = ServiceStatus(
    version="0.2.0",
    uptime_s=7200.0,
    is_alive=True,
    is_ready=True,
    models=(ModelStatus("water", True, ("main",), 100, 19_200, 50, 0.1, 10.0, 1.0),),
    callers=(CallerUsage("alice", 100, 19_200, 10.0),),
)
NOW = replace(
    BEFORE,
    uptime_s=7202.0,
    models=(
        ModelStatus("water", True, ("main",), 160, 30_720, 70, 0.12, 11.0, 1.0),
        ModelStatus("mixed", False, ("mace", "main")),
    ),
    devices=(DeviceStatus("cuda:0", 2_000_000_000, 3_000_000_000, 75_000_000_000),),
    callers=(CallerUsage("bob", 10, 1_920, 0.5), CallerUsage("alice", 150, 28_800, 10.5)),
    n_waiting=3,
    n_waiting_atoms=576,
    n_runs=1,
)
TEXT = """\
TwinForce 0.2.0 at grpc://host:8001 is ready, up for 2 h

model  state    architecture  elements  dtype    device  runs in      forces
water  ready    hybrid_net    H O       float32  cuda:0  main         conservative, direct
mixed  loading                                           mace + main

model  evaluations  per s  atoms/s  per batch  fill  busy
water  160          30.0   5760     2.3        12%   50%
mixed  0            0.0    0        0.0        0%    0%

30.0 evaluations/s; waiting: 3 systems of 576 atoms; runs under way: 1; engines restarted: 0

memory  used    reserved  free
cuda:0  2.0 GB  3.0 GB    75.0 GB

caller  evaluations  atoms  device s  share now
alice   150          28800  10.5      25%
bob     10           1920   0.5       25%"""


def test_the_text_tells_the_state_and_what_happened_between_two_looks():
    report = report_of("grpc://host:8001", [INFO], BEFORE, NOW)
    assert text_of(report) == TEXT


def test_rates_of_a_service_that_was_restarted_are_those_since_its_start():
    young = replace(NOW, uptime_s=4.0)
    report = report_of("grpc://host:8001", [INFO], BEFORE, young)
    assert report["evaluations_per_s"] == 40.0
    assert report["callers"][1]["device_share"] == pytest.approx(10.5 / 4.0)


@pytest.mark.parametrize(
    ("is_alive", "expected"), [(True, "is NOT READY, up"), (False, "is FAILED, up")]
)
def test_a_service_that_is_not_ready_says_so(is_alive, expected):
    bare = ServiceStatus("0.2.0", 90.0, is_alive=is_alive, is_ready=False)
    text = text_of(report_of("grpc://host:8001", [], bare, replace(bare, uptime_s=91.0)))
    assert expected in text.splitlines()[0]
    assert "model" not in text
    assert "caller" not in text


def test_json_has_the_state_the_models_and_the_rates(url, capsys):
    with Client(url) as client:
        client.predict(molecule(), "hybrid")
    assert run(["status", url, "--json", "--interval=0.1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["url"] == url
    assert report["is_ready"] is report["is_alive"] is True
    (model,) = report["models"]
    assert model["name"] == "lj"
    assert model["dtype"] == "float64"
    assert model["elements"]
    assert model["n_evaluations"] >= 1
    assert report["evaluations_per_s"] == model["evaluations_per_s"] >= 0
    assert report["callers"][0]["name"] == "127.0.0.1"


def test_text_names_the_address_and_the_models(url, capsys):
    assert run(["status", f"--url={url}", "--interval=0.01"]) == 0
    first, _, header, row = capsys.readouterr().out.splitlines()[:4]
    assert first.startswith(f"TwinForce 0.2.0 at {url} is ready, up for ")
    assert header.split()[:2] == ["model", "state"]
    assert row.split()[:2] == ["lj", "ready"]


def test_watch_looks_until_it_is_interrupted(url, capsys, monkeypatch):
    n_looks = 0

    def sleep(seconds):
        nonlocal n_looks
        assert seconds == 7.0
        n_looks += 1
        if n_looks > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("twinforce.cli.status.time.sleep", sleep)
    assert run(["status", url, "--watch", "--json", "--interval=7"]) == 130
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(reports) == 3
    uptimes = [each["uptime_s"] for each in reports]
    assert uptimes == sorted(uptimes)


def test_a_service_that_still_loads_its_models_ends_the_command_with_1(capsys):
    port, may_load = free_port(), threading.Event()
    url = f"http://127.0.0.1:{port}"

    def load():
        may_load.wait(60)
        return {"soft": loaded(Soft())}

    servers = []
    starting = threading.Thread(target=lambda: servers.append(serve(load, rest_port=port)))
    starting.start()
    try:
        with Client(url) as client:
            wait_until(lambda: not client.status().is_ready)
        assert run(["status", url, "--interval=0.01"]) == 1
        assert f"at {url} is NOT READY, up for" in capsys.readouterr().out
    finally:
        may_load.set()
        starting.join()
    with servers[0]:
        assert run(["status", url, "--interval=0.01"]) == 0


def test_a_service_that_is_away_ends_the_command_with_1_and_an_error(capsys):
    url = f"grpc://127.0.0.1:{free_port()}"
    assert run(["status", url, "--timeout=0.2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert UnavailableError.__name__ in err
