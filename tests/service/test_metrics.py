"""Metrics of the service: what is exposed, in which format, and what a batch adds."""

import re
from dataclasses import replace

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from tests.chart.serving import use
from tests.clients.serving import serve
from twinforce_service.engine.report import BatchReport, DeviceMemory
from twinforce_service.metrics import Metrics

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REPORT = BatchReport("lj", 3, 12, (0.1, 0.2, 0.3), 2.0, fill=0.25, n_padding=4)


def values(metrics, name):
    """Return the values of the samples of a name, by their labels."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def metrics():
    return Metrics("1.2.3")


@pytest.mark.parametrize("accepted", ["", "*/*", "text/plain;version=0.0.4", OPEN_METRICS])
def test_a_service_exposes_its_metrics_without_the_times_of_their_creation(accepted):
    with serve(metrics_port=0, engine="thread") as server:
        use(server.grpc_url)
        headers = {"accept": accepted}
        reply = httpx2.get(f"{server.metrics_url}/metrics", headers=headers).raise_for_status()
    is_open = accepted == OPEN_METRICS
    expected = "application/openmetrics-text" if is_open else "text/plain"
    assert reply.headers["content-type"].startswith(expected)
    assert "_created" not in reply.text
    parse = open_families if is_open else text_string_to_metric_families
    samples = {sample.name for family in parse(reply.text) for sample in family.samples}
    assert {
        "twinforce_requests_total",
        "twinforce_queue_seconds_bucket",
        "twinforce_batch_hold_seconds_count",
        "twinforce_compute_seconds_sum",
        "twinforce_batch_fill_bucket",
        "twinforce_padding_atoms_total",
        "twinforce_model_available",
        "twinforce_caller_device_seconds_total",
        "twinforce_build_info",
    } <= samples


def test_a_model_is_not_available_while_it_is_loaded(metrics):
    loaded = []
    metrics.watch_model("lj", lambda: bool(loaded))
    assert values(metrics, "twinforce_model_available") == {("lj",): 0.0}
    loaded.append("lj")
    assert values(metrics, "twinforce_model_available") == {("lj",): 1.0}


def test_a_batch_tells_how_full_it_was_and_how_much_was_padding(metrics):
    for _ in range(2):
        metrics.observe_batch(REPORT, "main")
    assert values(metrics, "twinforce_batch_fill_sum") == {("lj",): 0.5}
    assert values(metrics, "twinforce_padding_atoms_total") == {("lj",): 8.0}


def test_the_memory_of_an_engine_is_that_of_its_last_report(metrics):
    for environment, used, free in [("main", 1, 7), ("main", 1, 5), ("sevenn", 2, 4)]:
        memory = DeviceMemory("cuda:0", used=used, reserved=3, free=free)
        metrics.observe_batch(replace(REPORT, memory=memory), environment)
    metrics.observe_batch(REPORT, "main")
    assert values(metrics, "twinforce_device_memory_bytes") == {
        ("cuda:0", "main", "used"): 1.0,
        ("cuda:0", "main", "reserved"): 3.0,
        ("cuda:0", "main", "free"): 5.0,
        ("cuda:0", "sevenn", "used"): 2.0,
        ("cuda:0", "sevenn", "reserved"): 3.0,
        ("cuda:0", "sevenn", "free"): 4.0,
    }


def test_exemplars_name_the_traces_of_calls_that_are_recorded(metrics):
    metrics.observe_batch(replace(REPORT, traces=((PARENT, 0.2),)), "main")
    metrics.observe_batch(REPORT, "main")
    text = metrics.exposition(OPEN_METRICS)[0].decode()
    exemplars = {
        (sample.name, sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in open_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars == {
        ("twinforce_queue_seconds_bucket", PARENT[3:35], 0.2),
        ("twinforce_compute_seconds_bucket", PARENT[3:35], 2.0),
    }
    assert "# {" not in metrics.exposition()[0].decode()


def test_the_build_names_the_service_and_python(metrics):
    ((system, python, version),) = values(metrics, "twinforce_build_info")
    assert version == "1.2.3"
    assert re.fullmatch(r"3\.\d+\.\d+.*", python)
    assert system
