"""The queries of the dashboard and of the alerts, and what they ask for."""

import json
import re

import yaml

from tests.chart.rendering import CHART

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
# Labels that Prometheus adds.
ADDED = {"namespace", "job", "pod", "le"}

PANELS = {
    f"{panel['title']} {target['refId']}": target
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
RULES = {rule["alert"]: rule for group in ALERTS for rule in group["rules"]}


def metrics_in(query):
    return set(re.findall(r"\btwinforce_\w+", query))


def labels_in(query):
    """Return the labels that a query selects or groups by."""
    grouped = re.findall(r"\bby \(([^)]*)\)", query)
    selected = re.findall(r"\{([^}]*)\}", query)
    names = {name.strip() for group in grouped for name in group.split(",")}
    for selector in selected:
        names |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return names - ADDED


def with_selector(query, selector):
    """Return a query of an alert or of the dashboard for the pods of one release."""
    query = query.replace("$selector", selector).replace("$__rate_interval", "1m")
    return query.replace('namespace="$namespace", job="$job"', selector)
