"""Traces of calls, from the client to the batch, as a collector receives them."""

import asyncio
import json
import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import httpx2
import pytest

from tests.clients.serving import serve
from tests.potentials import Gated, loaded
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import AsyncClient, Client, ServiceError
from twinforce_service.logs import JSONFormatter

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs twinforce[tracing]")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.service.tracing.collector import attributes_of, collecting

PATIENCE = 60.0
SPANS_OF_CALL = {"twinforce predict": 1, "queue": 1, "evaluation": 1, "batch": 1}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def program(monkeypatch):
    """A program that records its own spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return SimpleNamespace(
        spans=lambda: {span.name: span for span in exporter.get_finished_spans()},
        inside=provider.get_tracer("program").start_as_current_span,
    )


@contextmanager
def traced(protocol="grpc", potentials=None, **settings):
    """A service, and the collector that has got its spans after the service has stopped."""
    with collecting(protocol) as collector:
        given = {"trace_share": 0.0, "otlp_endpoint": collector.url, "otlp_protocol": protocol}
        given["engine"] = "thread"
        with serve(potentials, **given | settings) as server:
            yield server, collector


def calls(url):
    """Return functions that make a call, a step of a stream, and a run; and what closes all."""
    client = Client(url)
    stream = client.stream("lj")
    return {
        "predict": lambda: client.predict(molecule(3)),
        "step": lambda: stream.predict(molecule(3)),
        "relax": lambda: list(client.relax(molecule(3), max_steps=3, interval=1)),
        "nonconservativity": lambda: client.nonconservativity(molecule(2)),
    }, client


def of_trace(collector, trace_id):
    return [span for span in collector.spans if span.trace_id == trace_id.to_bytes(16)]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("call", "method", "name"),
    [
        ("predict", "Predict", "twinforce predict"),
        ("step", "PredictStream", "twinforce predict"),
        ("nonconservativity", "Nonconservativity", "twinforce nonconservativity"),
    ],
)
def test_a_call_is_traced_from_the_program_to_the_batch(program, transport, call, method, name):
    with traced() as (server, collector):
        made, client = calls(getattr(server, f"{transport}_url"))
        made[call]()  # outside of a trace: the service decides, for none
        with program.inside("simulation") as span:
            trace_id = span.get_span_context().trace_id
            made[call]()
        client.close()
    ours = program.spans()[f"twinforce.Client {method}"]
    assert ours.parent.span_id == program.spans()["simulation"].context.span_id
    spans = {each.name: each for each in of_trace(collector, trace_id)}
    assert spans.keys() == {name, "queue", "evaluation"}
    assert spans[name].parent_span_id == ours.context.span_id.to_bytes(8)
    for part in ("queue", "evaluation"):
        assert spans[part].parent_span_id == spans[name].span_id
        early = spans[name].start_time_unix_nano - spans[part].start_time_unix_nano
        assert early < 5_000_000  # they are times on another clock
    assert spans["queue"].end_time_unix_nano == spans["evaluation"].start_time_unix_nano
    assert spans["evaluation"].end_time_unix_nano > spans["evaluation"].start_time_unix_nano
    assert ours.start_time <= spans[name].start_time_unix_nano
    batches = {each.span_id: each for each in collector.named("batch")}
    batch = batches[spans["evaluation"].links[0].span_id]
    assert spans[name].span_id in [link.span_id for link in batch.links]
    assert attributes_of(batch)["twinforce.model"] == "lj"
    found = attributes_of(spans[name])
    assert found["twinforce.outcome"] == "ok"
    assert found["twinforce.transport"].startswith(transport)
    assert collector.resources[0]["service.name"] == "twinforce"


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_of_a_run_the_trace_shows_the_first_evaluation(program, transport):
    with traced() as (server, collector):
        made, client = calls(getattr(server, f"{transport}_url"))
        with program.inside("simulation") as span:
            made["relax"]()
        client.close()
    names = [each.name for each in of_trace(collector, span.get_span_context().trace_id)]
    assert sorted(names) == ["evaluation", "queue", "twinforce relax"]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_steps_of_one_stream_belong_to_the_span_that_they_are_made_in(program, transport):
    with traced() as (server, collector):
        made, client = calls(getattr(server, f"{transport}_url"))
        ids = []
        for name in ("first", "second"):
            with program.inside(name) as span:
                made["step"]()
                ids.append(span.get_span_context().trace_id)
        client.close()
    for each in ids:
        assert len(of_trace(collector, each)) == 3
    assert len(collector.named("twinforce predict")) == 2


def test_an_asyncio_client_passes_the_span_on(program):
    async def run(url):
        async with AsyncClient(url) as client:
            with program.inside("simulation") as span:
                await client.predict(molecule(3), model="lj")
                async with client.stream("lj") as stream:
                    await stream.predict(molecule(3))
            return span.get_span_context().trace_id

    with traced() as (server, collector):
        ids = [asyncio.run(run(url)) for url in (server.grpc_url, server.rest_url)]
    for each in ids:
        names = sorted(span.name for span in of_trace(collector, each))
        assert names == sorted(["twinforce predict", "queue", "evaluation"] * 2)


def test_a_batch_links_to_the_spans_of_all_its_requests():
    potential = Gated()
    first, second = PARENT, PARENT.replace("0af765", "1bf765")
    with (
        traced(potentials={"soft": loaded(potential, "soft")}) as (server, collector),
        httpx2.Client(base_url=server.rest_url, timeout=PATIENCE) as rest,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask(n_systems, parent=None):
            body = {"systems": [system_of(3)] * n_systems}
            headers = {} if parent is None else {"traceparent": parent}
            path = "/v1/models/soft/energy"
            return pool.submit(rest.post, path, json=body, headers=headers, timeout=PATIENCE)

        asked = [ask(1)]  # keeps the device busy while the others come
        for _ in range(3):  # twice for the warm-up
            assert potential.entered.acquire(timeout=PATIENCE)
        asked += [ask(2, first), ask(3, second), ask(1)]
        wait_until(lambda: "twinforce_queue_requests 6.0" in rest.get("/metrics").text)
        potential.gate.release(100)
        assert [each.result().status_code for each in asked] == [200] * 4
    by_trace = {span.trace_id.hex(): span for span in collector.named("twinforce predict")}
    assert by_trace.keys() == {first[3:35], second[3:35]}
    (batch,) = collector.named("batch")
    assert {link.span_id for link in batch.links} == {span.span_id for span in by_trace.values()}
    assert attributes_of(batch)["twinforce.n_systems"] == 6
    for name in ("queue", "evaluation"):
        counts = {
            span.trace_id.hex(): attributes_of(span)["twinforce.n_systems"]
            for span in collector.named(name)
        }
        assert counts == {first[3:35]: 2, second[3:35]: 3}


def system_of(n_atoms):
    system = molecule(n_atoms)
    return {
        "atomic_numbers": system.atomic_numbers.tolist(),
        "positions": system.positions.tolist(),
    }


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (PARENT, True),
        (PARENT[:-2] + "00", False),
        ("01" + PARENT[2:] + "-more", True),
        (PARENT + "-more", None),
        ("ff" + PARENT[2:], None),
        ("00-" + "0" * 32 + PARENT[35:], None),
        ("nonsense", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_caller_decides_what_is_traced_and_for_others_the_share(share, parent, expected):
    with traced(trace_share=share) as (server, collector):
        reply = httpx2.post(
            f"{server.rest_url}/v1/models/lj/energy",
            json={"systems": [system_of(3)]},
            headers={"traceparent": parent},
        )
        assert reply.status_code == 200
    is_traced = bool(share) if expected is None else expected
    assert dict(collector.names()) == (SPANS_OF_CALL if is_traced else {})
    if is_traced and expected:
        (call,) = collector.named("twinforce predict")
        assert call.trace_id.hex() == PARENT[3:35]
        assert call.parent_span_id.hex() == PARENT[36:52]


def test_a_program_that_does_not_record_its_span_is_not_traced_by_the_service(monkeypatch):
    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with traced(trace_share=1.0) as (server, collector), Client(server.grpc_url) as client:
        client.predict(molecule(3), model="lj")
    assert collector.spans == []


def test_a_call_that_fails_is_an_error_of_its_span(program):
    with traced() as (server, collector):
        for url in (server.grpc_url, server.rest_url):
            with Client(url) as client, program.inside("run"), pytest.raises(ServiceError):
                client.predict(molecule(3), model="other")
    for span in collector.named("twinforce predict"):
        assert attributes_of(span)["error.type"] == "UnknownModelError"
        assert span.status.code == 2
    assert len(collector.spans) == 2
    assert program.spans()["twinforce.Client Predict"].status.status_code.name == "ERROR"


def test_a_module_that_is_still_being_imported_is_left_alone(monkeypatch):
    partial = ModuleType("opentelemetry.trace")
    partial.__spec__ = ModuleSpec("opentelemetry.trace", None)
    partial.__spec__._initializing = True
    with serve(engine="thread") as server, Client(server.grpc_url) as client:
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", partial)
        assert client.predict(molecule(3), model="lj")
        monkeypatch.undo()


def test_a_collector_over_http_gets_the_same_with_the_headers_of_the_environment(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=physics")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod-7")
    with (
        traced("http/protobuf", trace_share=1.0) as (server, collector),
        Client(server.grpc_url) as client,
    ):
        client.predict(molecule(3), model="lj")
    assert dict(collector.names()) == SPANS_OF_CALL
    assert {each["x-tenant"] for each in collector.headers} == {"physics"}
    assert collector.resources[0]["k8s.pod.name"] == "pod-7"


def test_an_engine_in_another_process_is_traced_alike(program):
    with traced(engine="process") as (server, collector):
        ids = []
        for transport in ("grpc", "rest"):
            made, client = calls(getattr(server, f"{transport}_url"))
            for call in made.values():
                call()
                with program.inside("simulation") as span:
                    ids.append(span.get_span_context().trace_id)
                    call()
            client.close()
    for each in ids:
        assert len(of_trace(collector, each)) == 3
    batches = {span.span_id for span in collector.named("batch")}
    assert {span.links[0].span_id for span in collector.named("evaluation")} == batches


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_that_does_not_answer_delays_nothing(protocol):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        given = {"otlp_endpoint": url, "otlp_protocol": protocol, "engine": "thread"}
        with serve(trace_share=1.0, **given) as server, Client(server.grpc_url) as client:
            assert client.predict(molecule(3), model="lj")
            connection, _ = listener.accept()
            with connection:  # the spans are on their way, and nobody reads them
                assert client.predict(molecule(3), model="lj")


def test_logs_name_the_trace_whether_or_not_calls_are_traced(caplog):
    caplog.set_level(logging.DEBUG, "twinforce_service")
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            if "refused" in record.getMessage():
                found.append(json.loads(JSONFormatter().format(record)))

    logger, handler = logging.getLogger("twinforce_service"), Handler()
    logger.addHandler(handler)
    try:
        with serve(engine="thread") as server:
            httpx2.post(
                f"{server.rest_url}/v1/models/lj/energy",
                json={"systems": [{"atomic_numbers": [200], "positions": [[0, 0, 0]]}]},
                headers={"traceparent": PARENT},
            )
    finally:
        logger.removeHandler(handler)
    assert [each["trace_id"] for each in found] == [PARENT[3:35]]
