"""Programs of others object to nothing that the chart renders but to what is excepted here."""

import json
import subprocess
import time
from contextlib import contextmanager

import httpx2
import pytest
import yaml

from tests.chart.queries import PANELS, with_selector
from tests.chart.rendering import (
    NAMESPACE,
    RELEASE,
    ROOT,
    VALUES,
    objects_in,
    one,
    path_of,
    rendered,
    run,
    template,
)
from tests.chart.serving import use
from tests.clients.serving import serve
from tests.ports import free_port

pytestmark = pytest.mark.chart
HERE = ROOT / "tests" / "chart"
VERSIONS = ["1.29", "1.31", "1.33", "1.35", "1.37"]
# Images are volumes since this version.
NEWER = {"models": "1.31"}
# Findings of checkov that are as they should be: the check, the kinds of objects, and the reason.
EXCEPTIONS = {
    "CKV_K8S_8": ({"Pod"}, "the pod of `helm test` ends by itself"),
    "CKV_K8S_9": ({"Pod"}, "nobody connects to the pod of `helm test`"),
    "CKV_K8S_11": (
        {"Pod", "Deployment"},
        "an idle node may be used; resources.limits takes a limit",
    ),
    "CKV_K8S_15": ({"Pod", "Deployment"}, "tags of releases do not change; image.pullPolicy"),
    "CKV_K8S_35": ({"Pod", "Deployment"}, "client and download read a key from a variable"),
    "CKV_K8S_43": (
        {"Pod", "Deployment"},
        "the registry is the user's; image.digest takes a digest",
    ),
}
# Panels that show nothing unless something went wrong.
QUIET = {"Restarts of engines in an hour A", "Memory of GPUs A"}


@pytest.fixture(scope="module")
def renderings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("renderings")
    for path in VALUES:
        (folder / path.name).write_text(template(f"--values={path}"))
    return folder


def test_objects_are_valid_for_several_versions_of_kubernetes(renderings):
    files = [
        f"{version}:{renderings / path.name}"
        for version in VERSIONS
        for path in VALUES
        if version >= NEWER.get(path.stem, "")
    ]
    done = run("python", HERE / "validate.py", *files)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_an_object_that_is_not_valid_is_found(tmp_path):
    """The schemas are strict, those of extensions as well."""
    objects = rendered(HERE / "values" / "gateway.yaml")
    one(objects, "Deployment")["spec"]["template"]["spec"]["replica"] = 1
    one(objects, "GRPCRoute")["spec"]["hostname"] = "a.example"
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    done = run("python", HERE / "validate.py", f"1.35:{file}")
    assert done.returncode == 1
    assert "'replica' was unexpected" in done.stdout
    assert "'hostname' was unexpected" in done.stdout


def test_checkov_finds_nothing_but_exceptions(renderings):
    arguments = ["--framework=kubernetes", "--output=json", "--compact", "--quiet"]
    done = run("checkov", *arguments, "--skip-download", f"--directory={renderings}")
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 500
    assert report["summary"]["parsing_errors"] == 0
    unexpected = {
        (each["check_id"], each["check_name"], each["resource"], each["file_path"])
        for each in report["results"]["failed_checks"]
        if each["resource"].partition(".")[0] not in EXCEPTIONS.get(each["check_id"], ({}, ""))[0]
    }
    assert not unexpected
    found = {each["check_id"] for each in report["results"]["failed_checks"]}
    assert found == EXCEPTIONS.keys(), "an exception is not needed any more"


def test_the_dockerfile_has_no_flaws_that_hadolint_knows():
    done = run("hadolint", ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_alerts_fire_as_they_should_and_not_otherwise(renderings, tmp_path):
    rules = one(objects_in((renderings / "autoscaling.yaml").read_text()), "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    cases = tmp_path / "cases.yaml"
    cases.write_text((HERE / "alert_cases.yaml").read_text())
    done = run("promtool", "check", "rules", tmp_path / "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("promtool", "test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        test["alertname"]
        for each in yaml.safe_load(cases.read_text())["tests"]
        for test in each["alert_rule_test"]
    }
    assert tested == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


@contextmanager
def prometheus(folder, target):
    """A real Prometheus that asks a service ten times a second; yields its address."""
    port = free_port()
    scrape = {
        "job_name": RELEASE,
        "static_configs": [{"targets": [target], "labels": {"namespace": NAMESPACE, "pod": "a"}}],
    }
    config = {
        "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        path_of("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def asked(url, query):
    """Return what Prometheus answers: a list of series; empty before it can be reached."""
    try:
        reply = httpx2.get(f"{url}/api/v1/query", params={"query": query}).json()
    except httpx2.TransportError:
        return []
    assert reply["status"] == "success", reply
    return reply["data"]["result"]


def test_prometheus_has_an_answer_for_every_panel(tmp_path):
    """A service is used until each query of the dashboard gives at least one series."""
    selector = f'namespace="{NAMESPACE}", job="{RELEASE}"'
    missing = {
        name: with_selector(target["expr"], selector)
        for name, target in PANELS.items()
        if name not in QUIET
    }
    with (
        serve(metrics_port=0) as server,
        prometheus(tmp_path, server.metrics_url.removeprefix("http://")) as url,
    ):
        gives_up_at = time.monotonic() + 120
        while missing and time.monotonic() < gives_up_at:
            use(server.grpc_url)
            missing = {name: query for name, query in missing.items() if not asked(url, query)}
        for name in QUIET:
            assert asked(url, with_selector(PANELS[name]["expr"], selector)) == []  # and no error
    assert not missing


def test_metrics_are_in_the_format_that_promtool_knows_and_have_no_flaws():
    with serve(metrics_port=0) as server:
        use(server.grpc_url)
        reply = httpx2.get(f"{server.metrics_url}/metrics").raise_for_status()
    assert 'twinforce_requests_total{model="lj",outcome="ok",transport="grpc"}' in reply.text
    done = run("promtool", "check", "metrics", input=reply.text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    flawed = reply.text + "# TYPE flawed counter\nflawed 1\n"
    done = run("promtool", "check", "metrics", input=flawed)
    assert done.returncode
    assert "flawed" in done.stdout + done.stderr
