"""Tests of the server as users start it, in a separate process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx2
import pytest

from tests.conftest import free_ports
from tests.ports import free_port
from tests.potentials import Gated, Raising, Soft, loaded
from tests.service.transports.rest_bodies import json_body, protobuf_body
from tests.service.troubled import HELIUM
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_proto import ModelLoadError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

PATIENCE = 180.0
FREE_PORTS = ["--rest-port", "0", "--grpc-port", "0", "--no-water"]
TOYS = ["--model", "lj=toy:lennard-jones", "--model", "springs=toy:harmonic"]


def start(*arguments):
    command = [sys.executable, "-W", "error", "-m", "twinforce_service.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(*arguments):
    """Start a service and yield its process and the three lines that it prints."""
    process = start(*FREE_PORTS, *arguments)
    try:
        yield process, [process.stdout.readline().rstrip("\n") for _ in range(3)]
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
        process.stderr.close()


def urls(lines):
    return lines[1].split()[1], lines[2].split()[1]


def test_the_server_prints_its_models_and_addresses():
    with running(*TOYS) as (process, lines):
        assert lines[0].startswith("TwinForce ")
        assert "lj (float64, cpu), springs (float64, cpu)" in lines[0]
        assert lines[1].startswith("REST  http://127.0.0.1:")
        assert lines[2].startswith("gRPC  grpc://127.0.0.1:")
        rest_url, grpc_url = urls(lines)
        assert httpx2.get(f"{rest_url}/health/ready").json()["models"] == ["lj", "springs"]
        with grpc.insecure_channel(grpc_url.removeprefix("grpc://")) as channel:
            assert len(InferenceStub(channel).ListModels(pb.ListModelsRequest()).models) == 2
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_signal_stops_the_server_after_it_has_answered_accepted_requests(
    troubled_model, gate, monkeypatch
):
    systems = [molecule(3, seed=seed, element=HELIUM) for seed in range(4)]
    model = ["--model", f"troubled={troubled_model[0]}", "--max-batch-atoms", "3"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with running(*model) as (process, lines), gate.closed():
        rest_url, grpc_url = urls(lines)
        replies = {}

        def ask_rest():
            body = json_body(*systems)
            replies["rest"] = httpx2.post(
                f"{rest_url}/v1/models/troubled/predict", json=body, timeout=PATIENCE
            )

        def ask_grpc():
            message = pb.PredictRequest.FromString(
                protobuf_body(*systems, outputs=["conservative_forces"], model="troubled")
            )
            with grpc.insecure_channel(grpc_url.removeprefix("grpc://")) as channel:
                replies["grpc"] = InferenceStub(channel).Predict(message, timeout=PATIENCE)

        threads = [threading.Thread(target=ask) for ask in (ask_rest, ask_grpc)]
        for thread in threads:
            thread.start()
        wait_until(lambda: queue_depth(rest_url) == 7)  # one of the eight is on the device
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_reachable(rest_url))
        gate.open()
        for thread in threads:
            thread.join(PATIENCE)
        assert replies["rest"].status_code == 200
        assert len(replies["rest"].json()["predictions"]) == 4
        assert len(replies["grpc"].predictions) == 4
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


def queue_depth(rest_url):
    lines = httpx2.get(f"{rest_url}/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("twinforce_queue_requests "))
    return float(line.split()[1])


def test_the_server_may_open_as_many_connections_as_its_limits_need():
    """It raises the soft limit on open files, and warns if the hard one is too low."""
    n_before, n_allowed = 512, 1024
    code = (
        "import resource, runpy; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({n_before}, {n_allowed})); "
        "runpy.run_module('twinforce_service.main', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *FREE_PORTS, *TOYS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("TwinForce")
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        (files,) = (line.split() for line in limits if line.startswith("Max open files"))
        assert files[3] == str(n_allowed)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert process.returncode == 0
    assert f"at most {n_allowed} files may be open" in err


def test_connections_beyond_the_limit_on_files_wait_and_are_served_later():
    """They neither fill the logs nor keep the processor busy."""
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160));"
    program = f"{limit} os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    server = ["-m", "twinforce_service.main", *FREE_PORTS, *TOYS]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *server],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        rest_url, _ = urls([process.stdout.readline() for _ in range(3)])
        place = urlsplit(rest_url).hostname, urlsplit(rest_url).port
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(place))
            lines = iter(process.stderr.readline, "")
            assert any("no more files may be open" in line for line in lines)
        wait_until(lambda: is_reachable(rest_url))
        assert httpx2.get(f"{rest_url}/health/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert len(err.splitlines()) < 10
    finally:
        process.kill()
        process.communicate()


def test_logs_are_structured_and_contain_the_id_of_the_request():
    with running(*TOYS, "--log-level", "debug", "--log-format", "json") as (process, lines):
        rest_url, _ = urls(lines)
        url, headers = f"{rest_url}/v1/models/ice/energy", {"x-request-id": "find-me"}
        httpx2.post(url, json=json_body(molecule()), headers=headers)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        records = [json.loads(line) for line in err.splitlines()]
        (refused,) = (each for each in records if each.get("request_id") == "find-me")
        assert "no model is called 'ice'" in refused["message"]


@contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def test_a_port_in_use_is_reported_on_one_line():
    with taken_port() as port:
        process = start(*FREE_PORTS, *TOYS, "--grpc-port", port)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    (line,) = err.splitlines()
    expected = f"cannot listen on 127.0.0.1:{port} for gRPC: address already in use"
    assert line == f"twinforce-server: error: {expected}; see --host and --grpc-port"


def test_a_model_that_cannot_be_loaded_is_reported_on_one_line():
    process = start(*FREE_PORTS, "--model", "mine=/nowhere/at/all")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("twinforce-server: error: ")
    assert "/nowhere/at/all" in line


def test_a_starting_service_is_alive_but_not_ready():
    permission, seen = threading.Event(), {}

    def load():
        permission.wait(PATIENCE)
        return {"soft": loaded(Soft())}

    port = free_port()
    settings = free_ports().model_copy(update={"rest_port": port})

    def query():
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_reachable(url))
        body = json_body(molecule())
        seen["live"] = httpx2.get(f"{url}/health/live")
        seen["ready"] = httpx2.get(f"{url}/health/ready")
        seen["models"] = httpx2.get(f"{url}/v1/models/soft")
        seen["predict"] = httpx2.post(f"{url}/v1/models/soft/predict", json=body)
        permission.set()

    querying = threading.Thread(target=query)
    querying.start()
    with run_in_thread(settings, load):
        querying.join(PATIENCE)
        ready = httpx2.get(f"http://127.0.0.1:{port}/health/ready")
    assert seen["live"].status_code == 200
    for name in ("ready", "models", "predict"):
        assert seen[name].status_code == 503
        assert seen[name].headers["retry-after"] == "1"
        assert seen[name].json()["type"] == "urn:twinforce:error:UnavailableError"
    assert ready.status_code == 200


def is_reachable(url):
    try:
        return httpx2.get(f"{url}/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_service_stops_if_its_engine_fails():
    dying = loaded(Raising(SystemExit("the device is gone")))
    server = run_in_thread(free_ports(), lambda: {"soft": dying})
    body = json_body(molecule(element=10))
    reply = httpx2.post(f"{server.rest_url}/v1/models/soft/predict", json=body, timeout=PATIENCE)
    assert reply.status_code == 503
    assert "the engine thread failed" in reply.json()["detail"]
    wait_until(lambda: not is_reachable(server.rest_url))
    with pytest.raises(UnavailableError, match="the engine has failed"):
        server.stop()


def test_stopping_ends_unfinished_requests_after_the_drain_timeout():
    potential = Gated()
    with run_in_thread(
        free_ports(drain_timeout=0.2), lambda: {"soft": loaded(potential)}
    ) as server:
        url = f"{server.rest_url}/v1/models/soft/predict"
        replies = []
        posting = threading.Thread(
            target=lambda: replies.append(
                httpx2.post(url, json=json_body(molecule()), timeout=PATIENCE)
            )
        )
        posting.start()
        for _ in range(3):
            assert potential.entered.acquire(timeout=PATIENCE)
        server.stop()  # the potential is still held
        posting.join(PATIENCE)
    assert replies[0].status_code == 503
    assert "stopped before" in replies[0].json()["detail"]
    potential.gate.release(100)


def test_an_unfinished_upload_is_refused_and_does_not_hold_up_the_end():
    with running(*TOYS, "--drain-timeout", str(PATIENCE)) as (process, lines):
        url = urlsplit(urls(lines)[0])
        with socket.create_connection((url.hostname, url.port)) as uploading:
            head = "POST /v1/models/lj/predict HTTP/1.1\r\nHost: localhost\r\n"
            uploading.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            wait_until(lambda: httpx2.get(f"{url.geturl()}/health/ready").status_code == 200)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert uploading.makefile("rb").readline().split()[1] == b"503"
            _, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, err) == (0, "")
            assert time.monotonic() - began < PATIENCE / 2


def test_a_service_whose_engine_hangs_ends_well_within_the_time_out():
    """The watchdog kills the engine, and the signal need not wait for it."""
    with running(*TOYS, "--drain-timeout", str(PATIENCE), "--watchdog", "2") as (process, _):
        (engine,) = children(process.pid)
        os.kill(engine, signal.SIGSTOP)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert time.monotonic() - began < PATIENCE / 2


def children(pid):
    """Return the ids of the processes that a process has started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for path in found for each in path.read_text().split()]


def test_a_service_in_a_thread_reports_why_it_did_not_start():
    with pytest.raises(ModelLoadError, match="nowhere"):
        run_in_thread(free_ports(model={"mine": "/nowhere"}))
    with taken_port() as port, pytest.raises(OSError, match=f"{port} for REST: .* in use"):
        run_in_thread(free_ports().model_copy(update={"rest_port": int(port)}))


def test_two_services_do_not_share_a_port(serve):
    server = serve(soft=Soft())
    for name, url in (("rest_port", server.rest_url), ("grpc_port", server.grpc_url)):
        settings = free_ports().model_copy(update={name: urlsplit(url).port})
        with pytest.raises(OSError, match="address already in use"):
            serve(settings, soft=Soft())


def test_a_service_in_a_thread_can_be_stopped_twice():
    server = run_in_thread(free_ports(), lambda: {"soft": loaded(Soft())})
    server.stop()
    server.stop()
    assert not is_reachable(server.rest_url)
