"""Tests of `twinforce status`."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.clients.serving import port_of, serve
from tests.ports import free_port
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
    start_id="first",
    models=(ModelStatus("water", True, ("main",), 100, 19_200, 50, 0.1, 10.0, 1.0),),
    callers=(CallerUsage("alice", 100, 19_200, 10.0),),
)
NOW = replace(
    BEFORE,
    uptime_s=7202.0,
    models=(
        ModelStatus("water", True, ("main",), 160, 30_720, 70, 0.12, 11.0, 1.0),
        ModelStatus("mixed", False, ("mace", "main"), 0, 0, 0, 0.0, 0.0, 0.0),
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


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (BEFORE, replace(NOW, start_id="second")),  # another replica answers
        (replace(BEFORE, uptime_s=0.5), replace(NOW, start_id="second")),  # it restarted at once
        (BEFORE, replace(NOW, uptime_s=BEFORE.uptime_s)),  # the service has kept its reading
        (None, NOW),
    ],
)
def test_there_are_no_rates_unless_the_same_process_answers_later(before, now):
    report = report_of("grpc://host:8001", [INFO], before, now)
    rates = ("evaluations_per_s", "atoms_per_s", "device_busy")
    assert [model[rate] for model in report["models"] for rate in rates] == [None] * 6
    assert report["evaluations_per_s"] is None
    assert [each["device_share"] for each in report["callers"]] == [None, None]
    text = text_of(report)
    assert "\nwater  160          -      -        2.3        12%   -\n" in text
    assert "\n- evaluations/s; waiting: 3 systems" in text
    assert "\nalice   150          28800  10.5      -\n" in text


def test_the_load_is_left_out_for_those_who_may_not_see_it():
    hidden = replace(NOW, models=(ModelStatus("water", True, ("main",)),))
    report = report_of("grpc://host:8001", [INFO], replace(BEFORE, models=hidden.models), hidden)
    assert report["models"][0]["n_evaluations"] is report["evaluations_per_s"] is None
    text = text_of(report)
    assert "per batch" not in text
    assert "\n- evaluations/s; waiting: 3 systems" in text
    assert "\nbob     10           1920   0.5       25%" in text


def test_each_of_two_replicas_has_the_rates_since_its_own_last_look(capsys, monkeypatch):
    other = replace(BEFORE, start_id="second", uptime_s=50.0, models=(), callers=())
    answers = iter([BEFORE, other, NOW, replace(other, uptime_s=51.0)])
    monkeypatch.setattr("twinforce.cli.status.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(Client, "status", lambda _: next(answers, None) or interrupt())
    monkeypatch.setattr(Client, "models", lambda _: [INFO])
    assert run(["status", "grpc://127.0.0.1:1", "--watch", "--json"]) == 130
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["start_id"] for each in reports] == ["second", "first", "second"]
    assert reports[1]["evaluations_per_s"] == 30.0


def interrupt():
    raise KeyboardInterrupt


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
    assert run(["status", url, "--json", "--interval=0.6"]) == 0
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


def test_watch_goes_on_while_nobody_answers(capsys, monkeypatch):
    port, servers = free_port(), []

    def sleep(seconds):
        """Start the service after two looks, stop it after the third, and end after the fourth."""
        n_looks.append(seconds)
        if len(n_looks) == 2:
            servers.append(serve(rest_port=port))
        elif len(n_looks) == 3:
            servers[0].stop()
        elif len(n_looks) == 4:
            raise KeyboardInterrupt

    n_looks = []
    monkeypatch.setattr("twinforce.cli.status.time", SimpleNamespace(sleep=sleep))
    url = f"http://127.0.0.1:{port}"
    assert run(["status", url, "--watch", "--json", "--reconnect-timeout=0.2"]) == 130
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["is_ready"] for each in reports] == [False, True, False]
    assert all(each["url"] == url for each in reports)
    assert "cannot reach" in reports[0]["error"]
    assert "error" not in reports[1]
    assert text_of(reports[2]) == f"no answer: {reports[2]['error']}"


def test_watch_does_not_wait_at_an_address_of_another_program(capsys):
    with serve() as server:
        url = f"grpc://127.0.0.1:{port_of(server.rest_url)}"
        assert run(["status", url, "--watch", "--timeout=5"]) == 1
    assert "cannot reach" in capsys.readouterr().err


def test_a_service_that_is_away_ends_the_command_with_1_and_an_error(capsys):
    url = f"grpc://127.0.0.1:{free_port()}"
    assert run(["status", url, "--timeout=0.2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert UnavailableError.__name__ in err
