"""Tests of the REST API."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import ARGON, NEON, Gated, NonFinite, Raising, Soft, WithoutDirect, loaded
from tests.service.transports.rest_bodies import (
    PROTOBUF,
    assert_same,
    json_body,
    json_predictions,
    json_system,
    protobuf_body,
    protobuf_predictions,
)
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, System
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.callers.allowances import Allowances
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import describe_calls
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.calls.status import StatusReader
from twinforce_service.embedded import run_in_thread
from twinforce_service.metrics import Metrics
from twinforce_service.transports.rest import bodies
from twinforce_service.transports.rest.app import create_app

PATIENCE = 60.0
LIMITS = CallLimits(1000, 10, 100, 100)
SYSTEMS = [crystal(5), crystal(8, seed=1), crystal(1)]
FIXED = {
    "energy": {"energy"},
    "conservative-forces": {"energy", "conservative_forces"},
    "direct-forces": {"energy", "direct_forces"},
}


class Everything(Soft):
    """A `Soft` potential that supports all elements."""

    elements = tuple(range(1, 119))


@pytest.fixture(scope="module")
def shared():
    """Return an HTTP client of a service of several potentials, shared by this module."""
    potentials = {
        "soft": Soft(),
        "plain": WithoutDirect(),
        "everything": Everything(),
        "nan": NonFinite(),
        "raising": Raising(),
    }
    settings = free_ports(max_atoms_per_system=64, max_body_bytes=100_000)
    models = {name: loaded(potential, name) for name, potential in potentials.items()}
    with run_in_thread(settings, lambda: models) as server, open_client(server) as rest:
        yield rest


def open_client(server):
    return httpx2.Client(base_url=server.rest_url, timeout=PATIENCE)


def post(rest, path="predict", model="soft", **options):
    return rest.post(f"/v1/models/{model}/{path}", **options)


def post_protobuf(rest, body, path="predict", model="soft", **headers):
    headers = {"content-type": PROTOBUF, **headers}
    return post(rest, path, model, content=body, headers=headers)


def assert_problem(reply, status, kind=None, **members):
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert problem["type"] == (f"urn:twinforce:error:{kind}" if kind else "about:blank")
    assert problem["title"]
    assert problem["detail"]
    assert {name: problem.get(name) for name in members} == members
    return problem


@pytest.mark.parametrize("path", FIXED)
def test_a_path_returns_its_outputs_as_json(shared, path):
    reply = post(shared, path, json=json_body(*SYSTEMS))
    assert reply.status_code == 200
    assert_same(json_predictions(reply), predict(Soft(), SYSTEMS, OUTPUTS), FIXED[path])


@pytest.mark.parametrize("path", FIXED)
def test_a_path_returns_its_outputs_as_protobuf(shared, path):
    reply = post_protobuf(shared, protobuf_body(*SYSTEMS, outputs=FIXED[path]), path)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == PROTOBUF
    assert_same(protobuf_predictions(reply), predict(Soft(), SYSTEMS, OUTPUTS), FIXED[path])


@pytest.mark.parametrize(
    ("outputs", "given"),
    [
        (None, {"energy", "conservative_forces"}),
        (["hybrid"], {"energy", "conservative_forces", "direct_forces"}),
        (["conservative_stress", "direct_stress"], {"conservative_stress", "direct_stress"}),
        (["atom_energies"], {"atom_energies"}),
        (list(OUTPUTS), set(OUTPUTS)),
    ],
)
def test_predict_returns_any_outputs(shared, outputs, given):
    asked = {} if outputs is None else {"outputs": outputs}
    reply = post(shared, json=json_body(*SYSTEMS, **asked))
    assert reply.status_code == 200
    assert_same(json_predictions(reply), predict(Soft(), SYSTEMS, OUTPUTS), given)


def test_protobuf_without_outputs_or_model_gets_those_of_the_path(shared):
    message = pb.PredictRequest.FromString(protobuf_body(*SYSTEMS))
    message.ClearField("outputs")
    message.ClearField("model")
    for path, outputs in {**FIXED, "predict": {"energy", "conservative_forces"}}.items():
        reply = post_protobuf(shared, message.SerializeToString(), path)
        assert_same(protobuf_predictions(reply), predict(Soft(), SYSTEMS, OUTPUTS), outputs)


def test_protobuf_is_returned_in_single_precision_on_request(shared):
    reply = post_protobuf(shared, protobuf_body(*SYSTEMS, reply_dtype="float32"))
    expected = predict(Soft(), SYSTEMS, OUTPUTS)
    assert_same(protobuf_predictions(reply), expected, OUTPUTS, tolerance=1e-6)


def test_a_client_may_send_one_media_type_and_accept_the_other(shared):
    expected = predict(Soft(), SYSTEMS, OUTPUTS)
    outputs = {"energy", "conservative_forces"}
    reply = post(shared, json=json_body(*SYSTEMS), headers={"accept": PROTOBUF})
    assert_same(protobuf_predictions(reply), expected, outputs)
    body = protobuf_body(*SYSTEMS, outputs=outputs)
    reply = post_protobuf(shared, body, accept="application/json")
    assert_same(json_predictions(reply), expected, outputs)


def test_a_reply_has_a_provenance_and_timings(shared):
    reply = post(shared, json=json_body(*SYSTEMS)).json()
    assert reply["model"] == reply["provenance"]["model"] == "soft"
    assert reply["provenance"] == {
        "model": "soft",
        "version": "1",
        "sha256": "0" * 64,
        "dtype": "float64",
        "device": "cpu",
        "service_version": reply["provenance"]["service_version"],
    }
    timings = reply["timings"]
    assert timings["queue_s"] >= 0
    assert timings["compute_s"] > 0
    assert timings["batch_n_systems"] >= 1
    assert timings["batch_n_atoms"] >= 1
    assert timings["queue_n_atoms"] >= 0


def test_the_declarations_of_models_are_returned_as_json(shared):
    models = shared.get("/v1/models").json()["models"]
    assert [each["name"] for each in models] == ["soft", "plain", "everything", "nan", "raising"]
    info = shared.get("/v1/models/plain").json()
    assert info == models[1]
    assert info["outputs"] == ["energy", "atom_energies", "conservative_forces"]
    assert info["units"]["conservative_forces"] == "eV/Å"


def test_the_declarations_of_models_are_returned_as_protobuf(shared):
    headers = {"accept": PROTOBUF}
    models = pb.ListModelsReply.FromString(shared.get("/v1/models", headers=headers).content)
    info = pb.ModelInfo.FromString(shared.get("/v1/models/plain", headers=headers).content)
    assert models.models[1] == info
    assert info.name == "plain"


def broken(**values):
    return {"systems": [json_system(molecule(2)), json_system(molecule(2)) | values]}


@pytest.mark.parametrize(
    ("body", "kind", "members", "detail"),
    [
        (broken(positions=[[0, 0, 0]]), "InvalidSystemError", (1, "positions"), "shape [2, 3]"),
        (broken(positions=[[0, 0, 0], [0, 0]]), "InvalidSystemError", (1, "positions"), "[1][2]"),
        (broken(positions=[[0, 0, 0], [0, 0, "1"]]), "InvalidSystemError", (1, "positions"), "num"),
        (broken(positions="abc"), "InvalidSystemError", (1, "positions"), "positions"),
        (broken(atomic_numbers=[1, 0]), "InvalidSystemError", (1, "atomic_numbers"), "1 to 118"),
        (broken(atomic_numbers=[1, 1.5]), "InvalidSystemError", (1, "atomic_numbers"), "integer"),
        (broken(atomic_numbers=[]), "InvalidSystemError", (1, "atomic_numbers"), "one atom"),
        (broken(cell=[[0, 0, 0]] * 3, pbc=True), "InvalidSystemError", (1, "cell"), "zero"),
        (broken(cell=[[1, 0, 0]] * 3, pbc=True), "InvalidSystemError", (1, "cell"), "independent"),
        (broken(pbc=[1, 0, 0]), "InvalidSystemError", (1, "pbc"), "boolean"),
        (broken(position=[]), "InvalidSystemError", (1, "position"), "not permitted"),
        (broken(spin_multiplicity=0), "InvalidSystemError", (1, "spin_multiplicity"), "1"),
        ({"systems": [3]}, "InvalidSystemError", (0, None), "object"),
        ({"systems": []}, "InvalidRequestError", (None, "systems"), "at least 1"),
        ({"system": {}}, "InvalidRequestError", (None, "systems"), "required"),
        ([], "InvalidRequestError", (None, "body"), "object"),
        (json_body(molecule(), outputs=["forces"]), "InvalidRequestError", (None, "outputs"), "'f"),
        (json_body(molecule(), outputs=[]), "InvalidRequestError", (None, "outputs"), "none"),
        (
            json_body(molecule(), outputs="energy"),
            "InvalidRequestError",
            (None, "outputs"),
            "array",
        ),
        (
            json_body(molecule(), molecule(element=8)),
            "UnsupportedElementError",
            (1, "atomic_numbers"),
            "supports (10, 18), got 8",
        ),
        (broken(charge=-1), "InvalidSystemError", (1, "charge"), "'soft' does not use it, got -1"),
        (broken(spin_multiplicity=3), "InvalidSystemError", (1, "spin_multiplicity"), "not use it"),
        (
            json_body(crystal(), molecule(), outputs=["conservative_stress"]),
            "UnsupportedOutputError",
            (1, "cell"),
            "volume",
        ),
    ],
)
def test_an_invalid_body_is_refused_with_the_field_and_the_system(
    shared, body, kind, members, detail
):
    system_index, field = members
    problem = assert_problem(
        post(shared, json=body), 422, kind, system_index=system_index, field=field
    )
    assert detail in problem["detail"]
    if system_index is not None:
        assert problem["detail"].startswith(f"systems[{system_index}]: ")


def test_validation_stops_at_the_first_error(serve):
    with open_client(serve(soft=Soft())) as rest:
        body = b'{"systems": [' + b",".join([b"{}" + b" " * 30] * 4_000) + b"]}"
        reply = post(rest, content=body)
        problem = assert_problem(reply, 422, "InvalidSystemError", system_index=0)
        assert problem["detail"] == "systems[0]: atomic_numbers: field required"
        system = json_system(molecule(1)) | {"atomic_numbers": ["H"] * 10_000}
        reply = post(rest, json={"systems": [system]})
        problem = assert_problem(reply, 422, "InvalidSystemError", field="atomic_numbers")
        assert problem["detail"].startswith("systems[0]: atomic_numbers[0]: ")


def test_other_requests_are_answered_while_a_large_body_is_decoded(serve, monkeypatch):
    count, is_reading, may_read = bodies.check_counts, threading.Event(), threading.Event()

    def hold(*arguments):
        is_reading.set()
        assert may_read.wait(PATIENCE)
        return count(*arguments)

    server = serve(free_ports(max_atoms_per_system=10), soft=Soft())
    monkeypatch.setattr(bodies, "check_counts", hold)
    body = json.dumps(json_body(molecule(20_000)))
    with open_client(server) as rest, open_client(server) as other, ThreadPoolExecutor(1) as pool:
        large = pool.submit(post, rest, content=body)
        assert is_reading.wait(PATIENCE)
        assert other.get("/health/live").status_code == 200
        assert not large.done()
        may_read.set()
        assert_problem(large.result(), 413, "SystemTooLargeError")


def test_a_charge_of_zero_and_a_spin_multiplicity_of_one_are_accepted(shared):
    system = json_system(molecule()) | {"charge": 0, "spin_multiplicity": 1}
    assert post(shared, json={"systems": [system]}).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(shared, number):
    body = json.dumps(json_body(molecule(1))).replace(str(molecule(1).positions[0, 0]), number)
    assert number in body
    kind = "InvalidSystemError"
    assert_problem(post(shared, content=body), 422, kind, system_index=0, field="positions")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"systems": [}', b"null", b"[" * 10000])
def test_a_body_that_is_not_json_is_refused(shared, body):
    assert_problem(post(shared, content=body), 422, "InvalidRequestError", field="body")


def test_a_body_that_is_not_protobuf_is_refused(shared):
    assert_problem(post_protobuf(shared, b"\xff\xff"), 422, "InvalidRequestError", field="body")


def test_protobuf_must_agree_with_the_path(shared):
    body = protobuf_body(molecule(), model="plain")
    assert_problem(post_protobuf(shared, body), 422, "InvalidRequestError", field="model")
    body = protobuf_body(molecule(), outputs=["direct_forces"])
    reply = post_protobuf(shared, body, "energy")
    assert_problem(reply, 422, "InvalidRequestError", field="outputs")


def test_a_path_with_fixed_outputs_accepts_no_others(shared):
    reply = post(shared, "energy", json=json_body(molecule(), outputs=["energy"]))
    assert_problem(reply, 422, "InvalidRequestError", field="outputs")


def test_the_refusal_of_an_output_lists_those_of_the_model(shared):
    reply = post(shared, "direct-forces", "plain", json=json_body(molecule()))
    problem = assert_problem(reply, 422, "UnsupportedOutputError", field="outputs")
    assert "it has energy, atom_energies, conservative_forces" in problem["detail"]


def test_an_unknown_model_is_not_found(shared):
    for reply in (
        shared.get("/v1/models/ice"),
        post(shared, model="ice", json=json_body(molecule())),
    ):
        problem = assert_problem(reply, 404, "UnknownModelError", field="model")
        assert "served: everything, nan, plain, raising, soft" in problem["detail"]


def test_unknown_paths_and_methods_are_problem_details(shared):
    assert_problem(shared.get("/v3"), 404)
    assert_problem(post(shared, "forces", json=json_body(molecule())), 404)
    reply = shared.get("/v1/models/soft/predict")
    assert_problem(reply, 405)
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "text/plain"}, {"content-type": ""}, {"content-encoding": "gzip"}],
)
def test_other_media_types_and_encodings_are_refused(shared, headers):
    headers = {"content-type": "application/json", **headers}
    assert_problem(post(shared, content=b"{}", headers=headers), 415)


def test_a_content_type_may_have_parameters(shared):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    body = json.dumps(json_body(molecule()))
    assert post(shared, content=body, headers=headers).status_code == 200


def chunks(n_bytes):
    for _ in range(n_bytes // 1000):
        yield b" " * 1000


@pytest.mark.parametrize(
    "content", [b" " * 100_001, b" " * 350_000, chunks(150_000)], ids=["just", "far", "chunked"]
)
def test_a_body_that_is_too_large_is_refused_while_it_is_read(shared, content):
    problem = assert_problem(post(shared, content=content), 413, "SystemTooLargeError")
    assert "at most 100000 bytes" in problem["detail"]
    assert post(shared, json=json_body(molecule())).status_code == 200


def test_a_system_that_is_too_large_is_refused(shared):
    reply = post(shared, json=json_body(molecule(), molecule(65)))
    problem = assert_problem(reply, 413, "SystemTooLargeError", system_index=1)
    assert "at most 64 atoms, got 65" in problem["detail"]


def test_a_model_that_fails_is_an_error_of_that_system(shared):
    body = json_body(molecule(), molecule(element=NEON))
    reply = post(shared, model="raising", json=body)
    problem = assert_problem(reply, 500, "PredictionError", system_index=1)
    assert "no neon, please" in problem["detail"]


def test_a_prediction_that_is_not_finite_is_an_error(shared):
    reply = post(shared, model="nan", json=json_body(molecule(element=NEON)))
    assert_problem(reply, 500, "NonFinitePredictionError", system_index=0, field="energy")


@pytest.mark.parametrize("name", ["my-request", "a.b:c_1", "x" * 128])
def test_a_valid_request_id_is_kept(shared, name):
    for path in ("/health/live", "/nowhere"):
        assert shared.get(path, headers={"x-request-id": name}).headers["x-request-id"] == name


@pytest.mark.parametrize("name", [None, "", "two words", "x" * 129, 'quote"', "-dash"])
def test_a_missing_or_invalid_request_id_is_replaced(shared, name):
    headers = {} if name is None else {"x-request-id": name}
    given = {shared.get("/health/live", headers=headers).headers["x-request-id"] for _ in "ab"}
    assert len(given) == 2
    assert name not in given


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "-inf"])
def test_a_timeout_must_be_a_positive_number_of_seconds(shared, seconds):
    reply = post(shared, json=json_body(molecule()), headers={"x-timeout-seconds": seconds})
    assert_problem(reply, 422, "InvalidRequestError", field="X-Timeout-Seconds")


@pytest.mark.parametrize("urgency", ["", "8", "-1", "1.0", "high"])
def test_an_urgency_must_be_a_whole_number_from_0_to_7(shared, urgency):
    reply = post(shared, json=json_body(molecule()), headers={"x-urgency": urgency})
    assert_problem(reply, 422, "InvalidRequestError", field="x-urgency")


@pytest.mark.parametrize("seconds", ["20", "1e308", "inf"])
def test_a_request_within_its_timeout_is_answered(shared, seconds):
    reply = post(shared, json=json_body(molecule()), headers={"x-timeout-seconds": seconds})
    assert reply.status_code == 200


def metric(rest, name):
    lines = rest.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture
def gated(serve):
    """Return a busy service with room for two more systems, its potential, and a client."""
    potential = Gated()
    server = serve(free_ports(max_waiting=2), soft=potential)
    with open_client(server) as rest, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, rest, json=json_body(molecule(3)))
        for _ in range(3):
            assert potential.entered.acquire(timeout=PATIENCE)
        yield server, potential, rest
        potential.gate.release(1000)
        assert first.result(PATIENCE).status_code == 200


def test_a_client_can_ask_about_its_request(gated):
    _, potential, rest = gated
    address = "/v1/requests/mine"
    assert rest.get(address).json() == {"is_open": False, "n_lines_sent": 0}
    with ThreadPoolExecutor(1) as pool:
        headers = {"x-watch-id": "mine"}
        reply = pool.submit(post, rest, json=json_body(molecule()), headers=headers)
        wait_until(lambda: rest.get(address).json() == {"is_open": True, "n_lines_sent": 0})
        potential.gate.release(1000)
        assert reply.result(PATIENCE).status_code == 200
    wait_until(lambda: rest.get(address).json() == {"is_open": False, "n_lines_sent": 0})


def test_urgent_requests_are_evaluated_first(gated):
    _, potential, rest = gated
    with ThreadPoolExecutor(2) as pool:
        replies = []
        for n_atoms, urgency in ((1, "4"), (2, "2")):
            body, headers = json_body(molecule(n_atoms)), {"x-urgency": urgency}
            replies.append(pool.submit(post, rest, json=body, headers=headers))
            wait_until(lambda: metric(rest, "twinforce_queue_requests") == len(replies))
        potential.gate.release(1000)
        assert [reply.result(PATIENCE).status_code for reply in replies] == [200, 200]
    assert potential.batches[-1] == (2, 1)


def test_a_full_queue_is_429_with_retry_after(gated):
    _, potential, rest = gated
    reply = post(rest, json=json_body(molecule(), molecule()), headers={"x-timeout-seconds": "0.1"})
    assert_problem(reply, 504, "DeadlineExceededError")
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(post, rest, json=json_body(molecule(n))) for n in (1, 2)]
        wait_until(lambda: metric(rest, "twinforce_queue_atoms") == 3)
        assert metric(rest, "twinforce_queue_requests") == 2
        reply = post(rest, json=json_body(molecule()))
        problem = assert_problem(reply, 429, "OverloadedError")
        assert problem["retry_after"] > 0
        assert int(reply.headers["retry-after"]) >= 1
        potential.gate.release(1000)
        assert [each.result(PATIENCE).status_code for each in waiting] == [200, 200]


def test_an_expired_request_gets_504_and_is_not_evaluated(gated):
    _, potential, rest = gated
    reply = post(rest, json=json_body(molecule(1)), headers={"x-timeout-seconds": "0.2"})
    assert_problem(reply, 504, "DeadlineExceededError")
    potential.gate.release(1000)
    assert post(rest, json=json_body(molecule(2))).status_code == 200
    assert potential.batches[-2:] == [(3,), (2,)]


def test_the_request_of_a_disconnected_client_is_not_evaluated(gated):
    server, potential, rest = gated
    address = urlsplit(server.rest_url)
    body = json.dumps(json_body(molecule(1))).encode()
    head = (
        "POST /v1/models/soft/predict HTTP/1.1\r\nhost: localhost\r\n"
        f"content-length: {len(body)}\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        wait_until(lambda: metric(rest, "twinforce_queue_requests") == 1)
    canceled = 'twinforce_requests_total{model="soft",outcome="RequestCancelledError"'
    wait_until(lambda: metric(rest, canceled) == 1)
    potential.gate.release(1000)
    assert post(rest, json=json_body(molecule(2))).status_code == 200
    assert potential.batches[-2:] == [(3,), (2,)]


def test_a_client_that_disconnects_during_an_evaluation_is_not_logged_as_an_error(serve, caplog):
    potential = Gated()
    server = serve(free_ports(max_batch_atoms=4), soft=potential)
    address = urlsplit(server.rest_url)
    body = json.dumps(json_body(*[molecule(4)] * 4)).encode()
    head = (
        "POST /v1/models/soft/predict HTTP/1.1\r\nhost: localhost\r\n"
        f"content-length: {len(body)}\r\n"
    )
    with open_client(server) as rest:
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
            for _ in range(3):
                assert potential.entered.acquire(timeout=PATIENCE)
        canceled = 'twinforce_requests_total{model="soft",outcome="RequestCancelledError"'
        wait_until(lambda: metric(rest, canceled) == 1)
        potential.gate.release(1000)
        assert post(rest, json=json_body(molecule(2))).status_code == 200
    assert [batch for batch in potential.batches if batch == (4,)] == [(4,)]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_health_paths_report_a_ready_service(shared):
    assert shared.get("/health/live").json() == {"status": "live"}
    ready = shared.get("/health/ready").json()
    assert ready == {"status": "ready", "models": sorted(ready["models"])}
    assert "soft" in ready["models"]


def test_calls_are_counted_by_model_and_outcome(shared):
    def count(model, outcome):
        labels = f'{{model="{model}",outcome="{outcome}",transport="rest"}}'
        return metric(shared, f"twinforce_requests_total{labels}")

    before = count("soft", "ok"), count("(unknown)", "UnknownModelError")
    post(shared, json=json_body(molecule()))
    for model in ("ice", "steam"):
        post(shared, model=model, json=json_body(molecule()))
    assert count("soft", "ok") == before[0] + 1
    assert count("(unknown)", "UnknownModelError") == before[1] + 2


def test_metrics_describe_batches(serve):
    with open_client(serve(soft=Soft())) as rest:
        post(rest, json=json_body(molecule(2), molecule(3)))
        # Replies are sent before their batch is counted.
        wait_until(lambda: metric(rest, "twinforce_compute_seconds_count") == 1)
        assert metric(rest, "twinforce_atoms_total") == 5
        assert metric(rest, "twinforce_evaluations_total") == 2
        text = rest.get("/metrics").text
    for name in ("batch_systems", "batch_atoms", "queue_seconds", "compute_seconds"):
        assert f'twinforce_{name}_count{{model="soft"}}' in text
    assert (
        'twinforce_model_info{architecture="Soft",device="cpu",dtype="float64",model="soft"' in text
    )


def test_metrics_describe_the_disagreement_of_forces(serve):
    potential = Soft()
    system = molecule(5, element=ARGON)
    mixed = System([NEON, *system.atomic_numbers[1:]], system.positions)
    with open_client(serve(soft=potential)) as rest:
        for asked in (["energy"], ["conservative_forces"], ["direct_forces"], ["hybrid"]):
            body = json_body(system, mixed, outputs=asked)
            assert post(rest, json=body).status_code == 200
        count = 'twinforce_force_disagreement_count{model="soft"}'
        wait_until(lambda: metric(rest, count) == 2)
        differences = [
            each.conservative_forces - each.direct_forces
            for each in predict(potential, [system, mixed], OUTPUTS[:4])
        ]
        expected = sum(np.sqrt(np.mean(each**2)) for each in differences)
        total = metric(rest, 'twinforce_force_disagreement_sum{model="soft"}')
        assert total == pytest.approx(expected, rel=1e-9)
        assert total > 0
        labels = f'{{atomic_number="{NEON}",model="soft"}}'
        assert metric(rest, f"twinforce_element_force_disagreement_count{labels}") == 1
        of_neon = metric(rest, f"twinforce_element_force_disagreement_sum{labels}")
        assert of_neon == pytest.approx(np.sqrt(np.mean(differences[1][0] ** 2)), rel=1e-9)


def test_the_documented_examples_work(shared):
    documented = shared.get("/openapi.json").json()
    n_examples = 0
    for path, methods in documented["paths"].items():
        if "post" not in methods or not path.startswith("/v1/"):
            continue
        content = methods["post"]["requestBody"]["content"]
        assert PROTOBUF in content
        for example in content["application/json"]["examples"].values():
            reply = shared.post(path.format(model="everything"), json=example["value"])
            assert reply.status_code == 200, reply.text
            n_examples += 1
        answer = methods["post"]["responses"]["200"]["content"]
        if "application/x-ndjson" in answer:
            given = answer["application/x-ndjson"]["example"]
            assert all(given.keys() == json.loads(line).keys() for line in reply.iter_lines())
            continue
        assert PROTOBUF in answer
        given = answer["application/json"]["example"]
        assert given.keys() == reply.json().keys()
        assert given["timings"].keys() == reply.json()["timings"].keys()
        assert given["provenance"].keys() == reply.json()["provenance"].keys()
    assert n_examples == 12
    assert shared.get("/docs").status_code == 200


def test_the_documentation_refers_only_to_schemas_that_exist(shared):
    text = shared.get("/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    referred = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred <= schemas.keys()
    assert {
        "NonconservativityBody",
        "PredictBody",
        "SystemsBody",
        "SystemBody",
        "Problem",
    } <= referred | schemas.keys()


class FailingEngine:
    """An engine that raises an unexpected exception."""

    models = MappingProxyType({})
    is_ready = True
    is_alive = True

    def find(self, model):
        raise ZeroDivisionError(model)


def test_an_unexpected_exception_is_a_problem_without_details():
    engine = FailingEngine()
    allowances = Allowances()
    jacobians, dynamics = (kind(engine, 10, 10, allowances) for kind in (Jacobians, Dynamics))
    metrics = Metrics("0")
    status = StatusReader(engine, metrics, Intake(), {})
    calls = describe_calls(engine, jacobians, dynamics, allowances, LIMITS, Converter(), status)
    outcomes = Outcomes(metrics, engine)
    app = create_app(engine, calls, metrics, outcomes, Intake(), LIMITS, Converter(), allowances)

    async def ask(method, path):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as rest:
            return await rest.request(method, path, json={})

    for method, path in (("POST", "/v1/models/soft/energy"), ("GET", "/v1/models/soft")):
        reply = asyncio.run(ask(method, path))
        problem = assert_problem(reply, 500, "ServiceError")
        assert "Zero" not in problem["detail"]
        assert reply.headers["x-request-id"]
