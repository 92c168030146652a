"""Queries of the dashboard and the alerts ask for what a real service has."""

import re

import httpx2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chart.queries import DASHBOARD, PANELS, RULES, labels_in, metrics_in
from tests.chart.serving import use
from tests.clients.serving import serve
from twinforce_proto.errors import ERRORS

QUERIES = {name: target["expr"] for name, target in PANELS.items()} | {
    name: rule["expr"] for name, rule in RULES.items()
}
# Metrics that have no samples before something has happened that a test does not bring about.
SILENT = {
    "twinforce_engine_restarts_total": {"environment", "device"},
    "twinforce_device_memory_bytes": {"environment", "device", "kind"},
}


@pytest.fixture(scope="module")
def labels():
    """The labels of each metric of a service that was used for all that it can do."""
    with serve(metrics_port=0) as server:
        use(server.grpc_url)
        text = httpx2.get(f"{server.metrics_url}/metrics").text
    found = dict(SILENT)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_exist(name, labels):
    query = QUERIES[name]
    used = metrics_in(query)
    assert used or "up{" in query
    known = {"outcome"} if not used else set().union(*(labels[each] for each in used))
    assert used <= labels.keys()
    assert labels_in(query) <= known


@pytest.mark.parametrize("name", PANELS)
def test_a_legend_names_labels_that_its_query_keeps(name):
    target = PANELS[name]
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])[1]
    assert shown <= {each.strip() for each in grouped.split(",")}


def test_a_legend_and_queries_of_a_panel_differ():
    for panel in DASHBOARD["panels"]:
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]


def test_every_metric_of_the_service_is_on_the_dashboard(labels):
    shown = set().union(*(metrics_in(target["expr"]) for target in PANELS.values()))
    families = {re.sub(r"_(bucket|count|sum|total)$", "", each) for each in labels}
    assert families == {re.sub(r"_(bucket|count|sum|total)$", "", each) for each in shown}


def test_panels_do_not_overlap():
    covered = np.zeros((200, 24), int)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        covered[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]] += 1
    assert covered.max() == 1


def test_outcomes_in_alerts_are_errors_of_the_service():
    found = [
        each for rule in RULES.values() for each in re.findall(r'outcome=~?"([^"]+)"', rule["expr"])
    ]
    assert found
    assert {name for each in found for name in each.split("|")} <= ERRORS.keys()
