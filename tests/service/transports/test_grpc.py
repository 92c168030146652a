"""Tests of the gRPC API."""

import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import httpx2
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import free_ports
from tests.potentials import NEON, Gated, NonFinite, Raising, Soft, WithoutDirect, loaded
from tests.service.transports.rest_bodies import assert_same
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client
from twinforce_models.prediction import predict
from twinforce_proto import (
    OUTPUTS,
    InvalidRequestError,
    InvalidSystemError,
    NonFinitePredictionError,
    PredictionError,
    PredictRequest,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
)
from twinforce_proto.codec.messages import (
    ERROR_METADATA_KEY,
    array_to_proto,
    error_from_proto,
    outputs_to_proto,
    predict_reply_from_proto,
    predict_request_to_proto,
    system_to_proto,
)
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_from_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

PATIENCE = 60.0
BOTH = frozenset({"energy", "conservative_forces"})
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def open_channel(server):
    return grpc.insecure_channel(server.grpc_url.removeprefix("grpc://"))


@pytest.fixture(scope="module")
def channel():
    """Return a channel to a service of several potentials, shared by the tests of this module."""
    potentials = {
        "soft": Soft(),
        "plain": WithoutDirect(),
        "nan": NonFinite(),
        "raising": Raising(),
    }
    models = {name: loaded(potential, name) for name, potential in potentials.items()}
    settings = free_ports(max_atoms_per_system=64, max_body_bytes=100_000)
    with run_in_thread(settings, lambda: models) as server, open_channel(server) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return InferenceStub(channel)


def predict_request(*systems, model="soft", outputs=BOTH, **more):
    return predict_request_to_proto(PredictRequest(model, systems, frozenset(outputs), **more))


def error_of(call_error):
    """Return the `ServiceError` of a failed call."""
    metadata = dict(call_error.trailing_metadata())
    error = error_from_proto(pb.Error.FromString(metadata[ERROR_METADATA_KEY]))
    assert call_error.code() is grpc.StatusCode[error.grpc_status]
    assert call_error.details() == str(error)
    assert metadata["x-request-id"]
    return error


def refusal(call, message, **options):
    with pytest.raises(grpc.RpcError) as refused:
        call(message, timeout=PATIENCE, **options)
    return error_of(refused.value)


def test_a_list_of_systems_is_answered_in_order(stub):
    systems = [crystal(5), crystal(2, seed=1), crystal(8, seed=2)]
    reply = stub.Predict(predict_request(*systems, outputs=OUTPUTS))
    assert reply.model == "soft"
    assert_same(predict_reply_from_proto(reply), predict(Soft(), systems, OUTPUTS), OUTPUTS)


def test_arrays_are_returned_in_single_precision_on_request(stub):
    reply = stub.Predict(predict_request(crystal(), reply_dtype="float32"))
    assert reply.predictions[0].conservative_forces.dtype == pb.FLOAT32
    expected = predict(Soft(), [crystal()], BOTH)
    assert_same(predict_reply_from_proto(reply), expected, BOTH, tolerance=1e-6)


def test_a_reply_has_a_provenance_and_timings(stub):
    reply = stub.Predict(predict_request(crystal(5), crystal(3)))
    assert reply.provenance.model == "soft"
    assert reply.provenance.sha256 == "0" * 64
    assert reply.timings.compute_s > 0
    assert reply.timings.batch_n_systems >= 2


def test_the_declarations_of_models_are_returned(stub):
    models = stub.ListModels(pb.ListModelsRequest()).models
    assert [each.name for each in models] == ["soft", "plain", "nan", "raising"]
    assert stub.GetModel(pb.GetModelRequest(model="plain")) == models[1]


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (predict_request(molecule(), model="ice"), UnknownModelError, "served: nan, plain"),
        (
            predict_request(molecule(), molecule(element=8)),
            UnsupportedElementError,
            "systems[1]: atomic",
        ),
        (
            predict_request(molecule(65)),
            SystemTooLargeError,
            "systems[0]: expected at most 64 atoms",
        ),
        (
            predict_request(molecule(element=NEON), model="raising"),
            PredictionError,
            "no neon, please",
        ),
        (predict_request(molecule(element=NEON), model="nan"), NonFinitePredictionError, "NaN"),
        (pb.PredictRequest(model="soft"), InvalidRequestError, "systems: expected at least one"),
        (
            pb.PredictRequest(model="soft", systems=[pb.System()], outputs=[1]),
            InvalidSystemError,
            "systems[0]: atomic_numbers: expected at least one atom",
        ),
    ],
)
def test_an_error_carries_its_class_in_the_trailing_metadata(stub, message, kind, text):
    error = refusal(stub.Predict, message)
    assert type(error) is kind
    assert text in str(error)


def test_a_long_error_message_is_truncated(stub):
    error = refusal(stub.GetModel, pb.GetModelRequest(model="x" * 10_000))
    assert isinstance(error, UnknownModelError)
    assert "xxx…'; served: " in str(error)
    assert len(str(error)) <= 1000


def test_an_unknown_model_is_not_found(stub):
    assert isinstance(refusal(stub.GetModel, pb.GetModelRequest(model="ice")), UnknownModelError)


def test_a_message_that_is_too_large_is_refused(stub):
    message = predict_request(*[molecule(64)] * 80)
    assert message.ByteSize() > 100_000
    error = refusal(stub.Predict, message)
    assert isinstance(error, SystemTooLargeError)
    assert "body: expected at most 100000 bytes (max_body_bytes" in str(error)
    with pytest.raises(grpc.RpcError) as refused:  # too large to be read
        stub.Predict(predict_request(*[molecule(64)] * 800))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_valid_request_id_is_kept_and_another_replaced(stub):
    for given, is_valid in (("my-call", True), ("no good", False)):
        metadata = (("x-request-id", given),)
        _, call = stub.Predict.with_call(predict_request(molecule()), metadata=metadata)
        name = dict(call.trailing_metadata())["x-request-id"]
        assert (name == given) is is_valid


class Walker:
    """A client of a stream, which sends a message and waits for its reply."""

    def __init__(self, stub, model="soft"):
        self.encoder = StreamEncoder(model)
        self.messages = queue.Queue()
        self.call = stub.PredictStream(iter(self.messages.get, None), timeout=PATIENCE)

    def send(self, message):
        self.messages.put(message)
        return next(self.call)

    def step(self, system, outputs=BOTH):
        return stream_reply_from_proto(self.send(self.encoder.encode(system, outputs)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.messages.put(None)


def test_a_stream_accepts_moves_with_and_without_a_new_cell(stub):
    system = crystal(8)
    rng = np.random.default_rng(0)
    with Walker(stub) as walker:
        for step in range(6):
            cell = system.cell * 1.01 if step % 2 else None
            system = system.moved(system.positions + rng.normal(0, 0.05, (8, 3)), cell)
            message = walker.encoder.encode(system, BOTH)
            assert message.HasField("system") is (step == 0)
            prediction = stream_reply_from_proto(walker.send(message))
            assert_same([prediction], predict(Soft(), [system], BOTH), BOTH)
            assert prediction.provenance.model == "soft"
            assert prediction.timings.batch_n_systems >= 1


def test_a_stream_may_change_its_outputs_its_model_and_its_system(stub):
    with Walker(stub) as walker:
        assert_same([walker.step(crystal(4))], predict(Soft(), [crystal(4)], BOTH), BOTH)
        outputs = frozenset({"direct_forces"})
        expected = predict(Soft(), [crystal(4)], outputs)
        assert_same([walker.step(crystal(4), outputs)], expected, outputs)
        expected = predict(Soft(), [crystal(9)], outputs)
        assert_same([walker.step(crystal(9), outputs)], expected, outputs)
        message = pb.StreamRequest(model="nan", system=system_to_proto(crystal(2)))
        assert walker.send(message).provenance.model == "nan"


def test_replies_are_in_the_order_of_the_messages(stub):
    systems = [crystal(n) for n in (8, 1, 5, 2, 7, 3)] * 5
    encoder = StreamEncoder("soft")
    replies = stub.PredictStream(iter([encoder.encode(each, BOTH) for each in systems]))
    predictions = [stream_reply_from_proto(reply) for reply in replies]
    assert_same(predictions, predict(Soft(), systems, BOTH), BOTH)


def refused_step(walker, message, kind):
    reply = walker.send(message)
    error = error_from_proto(reply.error)
    assert type(error) is kind
    assert error.system_index is None
    return str(error)


def test_a_stream_continues_after_an_invalid_message(stub):
    with Walker(stub, "raising") as walker:
        walker.step(crystal(4))
        bad = pb.StreamRequest(move=pb.Move(positions=array_to_proto(np.zeros((3, 3)))))
        assert "shape [4, 3]" in refused_step(walker, bad, InvalidSystemError)
        walker.encoder.reset()
        walker.step(crystal(4, seed=1))
        neon = pb.StreamRequest(system=system_to_proto(molecule(element=NEON)))
        assert "no neon, please" in refused_step(walker, neon, PredictionError)
        oxygen = pb.StreamRequest(system=system_to_proto(molecule(element=8)))
        assert "got 8" in refused_step(walker, oxygen, UnsupportedElementError)
        unknown = pb.StreamRequest(model="ice", system=system_to_proto(molecule()))
        assert "served:" in refused_step(walker, unknown, UnknownModelError)
        walker.encoder.reset()
        walker.step(crystal(4, seed=2))


def test_a_stream_must_begin_with_a_system(stub):
    with Walker(stub) as walker:
        move = pb.Move(positions=array_to_proto(np.zeros((3, 3))))
        text = refused_step(walker, pb.StreamRequest(model="soft", move=move), InvalidRequestError)
        assert "expected a whole system in the first message" in text
        assert_same([walker.step(crystal())], predict(Soft(), [crystal()], BOTH), BOTH)


def test_a_call_without_outputs_gets_energies_and_conservative_forces(stub):
    message = pb.PredictRequest(model="soft", systems=[system_to_proto(crystal())])
    predictions = predict_reply_from_proto(stub.Predict(message))
    assert_same(predictions, predict(Soft(), [crystal()], BOTH), BOTH)


def test_a_stream_without_outputs_gets_energies_and_conservative_forces(stub):
    with Walker(stub) as walker:
        message = pb.StreamRequest(system=system_to_proto(crystal()), model="soft")
        prediction = stream_reply_from_proto(walker.send(message))
        assert_same([prediction], predict(Soft(), [crystal()], BOTH), BOTH)


def test_a_stream_must_name_a_model(stub):
    system = system_to_proto(molecule())
    with Walker(stub) as walker:
        outputs = outputs_to_proto(BOTH)
        text = refused_step(
            walker, pb.StreamRequest(system=system, outputs=outputs), InvalidRequestError
        )
        assert text.startswith("model: ")


@pytest.fixture
def gated(serve):
    """Return a busy service, its potential, and a stub."""
    potential = Gated()
    server = serve(soft=potential)
    with open_channel(server) as channel, ThreadPoolExecutor(1) as pool:
        stub = InferenceStub(channel)
        first = pool.submit(stub.Predict, predict_request(molecule(3)), timeout=PATIENCE)
        for _ in range(3):
            assert potential.entered.acquire(timeout=PATIENCE)
        yield server, potential, stub
        potential.gate.release(1000)
        assert first.result(PATIENCE).predictions


def test_an_expired_call_is_not_evaluated(gated):
    server, potential, stub = gated
    with pytest.raises(grpc.RpcError) as late:
        stub.Predict(predict_request(molecule(1)), timeout=2.0)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The service has counted the call, so its system has left the queue.
    wait_until(lambda: metric(server, "twinforce_requests_total") == 1)
    potential.gate.release(1000)
    assert stub.Predict(predict_request(molecule(2)), timeout=PATIENCE).predictions
    assert potential.batches[-2:] == [(3,), (2,)]


def test_urgent_calls_are_evaluated_first(gated):
    server, potential, stub = gated
    calls = []
    for n_atoms, urgency in ((1, None), (2, "7"), (4, "0")):
        metadata = None if urgency is None else (("x-urgency", urgency),)
        message = predict_request(molecule(n_atoms))
        calls.append(stub.Predict.future(message, timeout=PATIENCE, metadata=metadata))
        wait_until(lambda: queue_depth(server) == len(calls))
    potential.gate.release(1000)
    assert all(call.result().predictions for call in calls)
    assert potential.batches[-1] == (4, 1, 2)


def test_clients_send_their_urgency_over_every_transport(gated):
    server, potential, _ = gated
    asked = []
    with ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        stack.callback(potential.gate.release, 1000)

        def ask(n_atoms, url, urgency, *, in_stream=False):
            source = stack.enter_context(Client(url, urgency=urgency))
            if in_stream:
                source = stack.enter_context(source.stream())
            asked.append(pool.submit(source.predict, molecule(n_atoms)))
            wait_until(lambda: queue_depth(server) == len(asked))

        ask(2, server.grpc_url, 3)
        ask(3, server.rest_url, 6)
        ask(4, server.rest_url, 1)
        ask(5, server.grpc_url, 0, in_stream=True)
        potential.gate.release(1000)
        assert all(each.result(PATIENCE).energy > 0 for each in asked)
    assert potential.batches[-1] == (5, 4, 2, 3)


@pytest.mark.parametrize("urgency", ["", "8", "-1", "1.0", "high", "01"])
def test_an_invalid_urgency_is_refused_by_unary_calls_and_streams(stub, urgency):
    metadata = (("x-urgency", urgency),)
    error = refusal(stub.Predict, predict_request(molecule()), metadata=metadata)
    assert (type(error), error.field) == (InvalidRequestError, "x-urgency")
    assert "from 0, the most urgent, to 7" in error.message
    call = stub.PredictStream(iter([]), timeout=PATIENCE, metadata=metadata)
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert error_of(refused.value).field == "x-urgency"


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_canceled_call_is_not_evaluated(gated, kind):
    server, potential, stub = gated
    if kind == "unary":
        call = stub.Predict.future(predict_request(molecule(1)), timeout=PATIENCE)
    else:
        call = stub.PredictStream(iter([StreamEncoder("soft").encode(molecule(1), BOTH)]))
    wait_until(lambda: queue_depth(server) == 1)
    call.cancel()
    transport = {"unary": "grpc", "stream": "grpc_stream"}[kind]
    labels = f'{{model="soft",outcome="RequestCancelledError",transport="{transport}"}}'
    wait_until(lambda: metric(server, f"twinforce_requests_total{labels}") == 1)
    potential.gate.release(1000)
    assert stub.Predict(predict_request(molecule(2)), timeout=PATIENCE).predictions
    assert potential.batches[-2:] == [(3,), (2,)]


def metric(server, name):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def is_listening(server):
    try:
        return httpx2.get(f"{server.rest_url}/health/live").is_success
    except httpx2.TransportError:
        return False


def queue_depth(server):
    return metric(server, "twinforce_queue_requests")


def test_waiting_walkers_share_the_next_batch(gated):
    server, potential, stub = gated
    with ThreadPoolExecutor() as pool:
        walkers = [Walker(stub) for _ in range(4)]
        steps = [pool.submit(walker.step, molecule(2)) for walker in walkers]
        wait_until(lambda: queue_depth(server) == 4)
        potential.gate.release(1000)
        assert {step.result(PATIENCE).timings.batch_n_systems for step in steps} == {4}
        for walker in walkers:
            walker.messages.put(None)
    assert potential.batches[-1] == (2, 2, 2, 2)


def test_the_health_service_reports_serving(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "twinforce.v1.Inference"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(channel):
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
    (reply,) = replies
    names = {each.name for each in reply.list_services_response.service}
    assert {"twinforce.v1.Inference", "grpc.health.v1.Health"} <= names


def test_stopping_ends_idle_streams_and_health_watches(serve):
    server = serve(free_ports(drain_timeout=1000.0), soft=Soft())
    with open_channel(server) as channel, Walker(InferenceStub(channel)) as walker:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        assert walker.step(molecule()).energy is not None
        with ThreadPoolExecutor(1) as pool:
            pool.submit(server.stop).result(PATIENCE)
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(walker.call)
        assert isinstance(error_of(ended.value), UnavailableError)
        with pytest.raises(grpc.RpcError):
            next(watch)


def n_answered(server):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("twinforce_requests_total{")]
    return sum(float(line.split()[-1]) for line in counts)


def test_stopping_answers_accepted_calls(serve):
    potential = Gated()
    server = serve(soft=potential)
    with open_channel(server) as channel, ThreadPoolExecutor() as pool:
        stub = InferenceStub(channel)
        with Walker(stub) as walker:
            calls = [pool.submit(stub.Predict, predict_request(molecule(3)), timeout=PATIENCE)]
            for _ in range(3):
                assert potential.entered.acquire(timeout=PATIENCE)
            calls.append(pool.submit(walker.step, molecule(2)))
            wait_until(lambda: queue_depth(server) == 1)
            stopping = pool.submit(server.stop)
            wait_until(lambda: not is_listening(server))
            assert not stopping.done()
            potential.gate.release(1000)
            assert calls[0].result(PATIENCE).predictions
            assert calls[1].result(PATIENCE).energy is not None
            stopping.result(PATIENCE)
