"""A release as its pods see it: a real service with the settings that the chart renders."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2
import pytest

from tests.chart.rendering import CHART, ROOT, rendered, run, server_of, settings_in
from tests.clients.certificates import Authority
from tests.ports import free_port
from tests.service.callers.issuer import AUDIENCE, issuing
from tests.service.callers.making import add_key
from tests.waiting import wait_until

pytestmark = pytest.mark.chart
VALUES = {
    "keys": {"secretName": "k"},
    "tls": {"secretName": "t"},
    "test": {"enabled": False},
    "models": {"bundled": False, "specs": {"lj": "toy:lennard-jones"}},
    "settings": {"drain_timeout": 5, "n_threads": 1, "compile": "off"},
}


class Secret:
    """A folder like that of a mounted Secret: links to files in a folder that is replaced."""

    def __init__(self, folder):
        self.folder = folder
        self._n_versions = 0

    def publish(self, **files):
        self._n_versions += 1
        version = self.folder / f"..{self._n_versions}"
        version.mkdir(parents=True)
        for name, path in files.items():
            item = name.replace("_", ".")
            shutil.copy(path, version / item)
            if not (self.folder / item).is_symlink():
                (self.folder / item).symlink_to(f"..data/{item}")
        (self.folder / "..new").symlink_to(version.name)
        (self.folder / "..new").rename(self.folder / "..data")


def seconds_to_stop(objects):
    """Return the time that Kubernetes gives a pod between the signal and its end."""
    pod, container = server_of(objects)
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    return pod["terminationGracePeriodSeconds"] - float(seconds)


@contextmanager
def service(settings):
    """Start a service as the container does; yield it once it is ready."""
    command = [sys.executable, "-m", "twinforce_service.main", f"--config={settings}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    too_late = threading.Timer(180, process.kill)
    too_late.start()
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[0].startswith("TwinForce"), process.stderr.read()
        yield process
    finally:
        too_late.cancel()
        process.kill()
        process.communicate()


def settings_here(objects, folder):
    """Write the settings of a release for this machine; return their file, and the addresses.

    Volumes are in the folder, and ports are free ones.
    """
    rest, grpc, metrics = free_port(), free_port(), free_port()
    text = settings_in(objects)
    for pattern, value in {
        "/etc/twinforce/": f"{folder}/",
        r"rest_port = \d+": f"rest_port = {rest}",
        r"grpc_port = \d+": f"grpc_port = {grpc}",
        r"metrics_port = \d+": f"metrics_port = {metrics}",
        r'host = "0.0.0.0"': 'host = "127.0.0.1"',
    }.items():
        text, n = re.subn(pattern, value, text)
        assert n
    (folder / "settings.toml").write_text(text)
    urls = f"https://localhost:{rest}", f"grpcs://localhost:{grpc}"
    return folder / "settings.toml", urls, f"http://127.0.0.1:{metrics}/health"


def predicted(key, ca, *urls):
    """Run the program of `helm test`; return what it did."""
    environment = os.environ | {"TWINFORCE_KEY": key, "TWINFORCE_CA": str(ca)}
    command = [sys.executable, CHART / "files" / "predict.py", *urls]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_release_serves_renews_its_secrets_and_stops_in_time(tmp_path):
    keys, tls = Secret(tmp_path / "keys"), Secret(tmp_path / "tls")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    certificate, private_key = first.issue("tls")
    tls.publish(tls_crt=certificate, tls_key=private_key)
    alice = add_key(tmp_path / "first.json", "alice")
    keys.publish(keys_json=tmp_path / "first.json")

    objects = rendered(VALUES)
    settings, urls, health = settings_here(objects, tmp_path)
    with service(settings) as process:
        done = predicted(alice, first.ca, *urls)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2
        assert predicted("tf_0123456789_" + "0" * 43, first.ca, urls[0]).returncode == 1

        bob = add_key(tmp_path / "second.json", "bob")
        keys.publish(keys_json=tmp_path / "second.json")
        certificate, private_key = second.issue("tls")
        tls.publish(tls_crt=certificate, tls_key=private_key)
        wait_until(lambda: predicted(bob, second.ca, *urls).returncode == 0)
        assert predicted(alice, second.ca, urls[0]).returncode == 1

        assert httpx2.get(f"{health}/live").status_code == 200
        assert httpx2.get(f"{health}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=seconds_to_stop(objects))
        assert process.returncode == 0, errors


def test_a_release_without_keys_takes_the_tokens_of_an_issuer(tmp_path):
    authority = Authority(tmp_path)
    certificate, private_key = authority.issue("tls")
    Secret(tmp_path / "tls").publish(tls_crt=certificate, tls_key=private_key)
    with issuing() as issuer:
        tokens = {
            "oidc_issuer": issuer.url,
            "oidc_audience": AUDIENCE,
            "oidc_scope_claim": "scope",
        }
        values = VALUES | {"keys": {}, "settings": VALUES["settings"] | tokens}
        values["networkPolicy"] = {"egress": [{"ports": [{"port": 443}]}]}
        settings, urls, _ = settings_here(rendered(values), tmp_path)
        with service(settings):
            done = predicted(issuer.token(scope="predict"), authority.ca, *urls)
            assert done.returncode == 0, done.stderr
            for refused in ({"scope": "metrics"}, {"scope": "predict", "aud": "others"}):
                done = predicted(issuer.token(**refused), authority.ca, urls[0])
                assert done.returncode == 1


def test_files_of_the_chart_are_in_a_package_of_it(tmp_path):
    """What Helm leaves out of a package is missing only where it is installed."""
    done = run("helm", "package", CHART, f"--destination={tmp_path}")
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True).stdout.split()
    committed = ("ls-files", "helm/twinforce")
    files = subprocess.run(["git", *committed], cwd=ROOT, capture_output=True, text=True).stdout
    assert {f"helm/{name}" for name in listed} >= set(files.split()) - {
        "helm/twinforce/.helmignore"
    }
