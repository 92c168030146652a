"""The chart renders what was reviewed, keeps to its rules, and refuses what cannot be."""

import math
import re
import tomllib

import pytest

from tests.chart.golden import GOLDEN, rendering_of
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    RELEASE,
    VALUES,
    one,
    rendered,
    run,
    server_of,
    settings_in,
    template,
    unmounted,
)
from tests.chart.test_generated import generate
from twinforce_service.clusters.drain import END_TIME
from twinforce_service.flags import parse_settings
from twinforce_service.settings import ENV_PREFIX, Settings

pytestmark = pytest.mark.chart
OPEN = {"insecure": True}
TOKENS = {"oidc_issuer": "https://a.example", "oidc_audience": "a", "oidc_scope_claim": "scope"}
ANYWHERE = {"networkPolicy": {"egress": [{}]}}
ALL = pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)


@ALL
def test_the_chart_has_no_flaws_that_helm_knows(path):
    done = run("helm", "lint", "--strict", CHART, f"--values={path}")
    assert done.returncode == 0, done.stdout


@ALL
def test_a_rendering_is_the_one_that_was_reviewed(path):
    golden = (GOLDEN / path.name).read_text()
    assert rendering_of(path) == golden, "run python -m tests.chart.golden, and read the difference"


@ALL
def test_the_service_takes_the_settings_that_are_rendered(path, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(settings_in(rendered(path)))
    settings = parse_settings(["--config", str(file)])
    assert tomllib.loads(file.read_text()).keys() <= settings.model_fields_set
    assert not settings.host.startswith("127.")
    assert settings.metrics_host == settings.host


@ALL
def test_a_pod_has_more_time_to_stop_than_the_service_takes(path, tmp_path):
    """Kubernetes counts from before preStop and kills what is left."""
    objects = rendered(path)
    pod, container = server_of(objects)
    file = tmp_path / "settings.toml"
    file.write_text(settings_in(objects))
    drain = parse_settings(["--config", str(file)]).drain_timeout
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    longest = float(seconds) + drain + END_TIME
    assert longest + 3 <= pod["terminationGracePeriodSeconds"] <= math.ceil(longest) + 10


@ALL
def test_pods_are_restricted_and_hold_no_token(path):
    objects = rendered(path)
    pods = [one(objects, "Deployment")["spec"]["template"]["spec"]]
    pods += [each["spec"] for each in objects if each["kind"] == "Pod"]
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["cpu"]


@ALL
def test_every_volume_is_mounted_and_none_by_a_part(path):
    """A part of a volume (subPath) would not follow when its Secret changes."""
    pod, container = server_of(rendered(path))
    mounts = container["volumeMounts"]
    assert sorted(each["name"] for each in mounts) == sorted(
        each["name"] for each in pod["volumes"]
    )
    assert not any("subPath" in each for each in mounts)


@ALL
def test_files_that_settings_name_are_in_volumes(path):
    assert unmounted(rendered(path)) == []


@ALL
def test_all_objects_select_the_pods_of_the_release_alone(path):
    objects = rendered(path)
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [one(objects, "Deployment")["spec"]["selector"]["matchLabels"]]
    for each in objects:
        if each["kind"] == "Service":
            selectors.append(each["spec"]["selector"])
        elif each["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            selectors.append(each["spec"]["selector"]["matchLabels"])
        elif (each["kind"], each["metadata"]["name"]) == ("NetworkPolicy", RELEASE):
            selectors.append(each["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/instance"] == RELEASE
    assert {each["metadata"].get("namespace", NAMESPACE) for each in objects} == {NAMESPACE}


@ALL
def test_routes_and_probes_lead_to_ports_that_exist(path):
    objects = rendered(path)
    _, container = server_of(objects)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[kind]["httpGet"]["port"] in ports
    services = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in objects
        if each["kind"] == "Service"
    }
    for each in objects:
        if each["kind"] == "Service":
            for port in each["spec"]["ports"]:
                assert port["targetPort"] in ports
                if each["spec"].get("clusterIP") == "None":  # addresses of pods, no translation
                    assert port["port"] == ports[port["targetPort"]]
        elif each["kind"] in ("HTTPRoute", "GRPCRoute"):
            for rule in each["spec"]["rules"]:
                for reference in rule["backendRefs"]:
                    assert reference["port"] in services[reference["name"]]


def test_an_update_takes_no_pod_away_before_another_is_ready():
    strategy = one(rendered(OPEN), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}


def test_readiness_sees_what_liveness_does_not():
    """An engine that hangs is replaced by the service; a restart of the pod would not help more."""
    _, container = server_of(rendered(OPEN))
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    startup = container["startupProbe"]
    assert startup["httpGet"]["path"] == "/health/ready"
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    deployment = one(rendered(OPEN), "Deployment")["spec"]
    assert deployment["progressDeadlineSeconds"] > 900


def test_each_gpu_of_a_pod_has_an_engine():
    _, container = server_of(objects := rendered(OPEN | {"gpu": {"count": 3}}))
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 3
    assert tomllib.loads(settings_in(objects))["device"] == "cuda:0,cuda:1,cuda:2"


def test_without_gpus_nothing_tolerates_their_nodes():
    pod, _ = server_of(rendered(OPEN))
    assert "tolerations" not in pod


def test_autoscalers_decide_alone():
    for values in ({"autoscaling": {"enabled": True}}, {"keda": {"enabled": True}}):
        assert "replicas" not in one(rendered(OPEN | values), "Deployment")["spec"]
    assert one(rendered(OPEN), "Deployment")["spec"]["replicas"] == 1


def test_few_pods_are_removed_at_a_time_and_each_has_its_time_to_stop():
    objects = rendered(
        OPEN | {"autoscaling": {"enabled": True}, "settings": {"drain_timeout": 600}}
    )
    behavior = one(objects, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]
    pod, _ = server_of(objects)
    assert {each["type"]: each["value"] for each in behavior["policies"]} == {
        "Percent": 5,
        "Pods": 1,
    }
    for policy in behavior["policies"]:
        assert policy["periodSeconds"] >= pod["terminationGracePeriodSeconds"]


def test_pods_are_replaced_if_settings_change_and_not_if_others_do():
    def checksum(**values):
        deployment = one(rendered(OPEN | values), "Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    assert checksum() == checksum(replicaCount=5)
    assert checksum() != checksum(settings={"max_waiting": 5})
    assert checksum() != checksum(models={"specs": {"mine": "toy:harmonic"}})


def test_large_numbers_and_odd_texts_reach_the_service_as_they_are():
    specs = {"odd": 'ase:a.b:c?x="1"&y=\\2', "über".encode().hex(): "orb:orb-v2#é"}
    values = OPEN | {
        "settings": {"max_waiting_atoms": 123456789012, "min_rate": 0, "max_hold": 1e-7},
        "models": {"specs": specs},
    }
    settings = tomllib.loads(settings_in(rendered(values)))
    assert settings["max_waiting_atoms"] == 123456789012
    assert settings["min_rate"] == 0
    assert settings["max_hold"] == 1e-7
    assert settings["model"] == specs


def test_a_network_without_downloads_lets_pods_connect_to_nothing():
    assert one(rendered(OPEN), "NetworkPolicy")["spec"]["egress"] == []


def test_names_are_looked_up_where_the_values_say_by_the_pods_and_their_test():
    def allowed(name, **values):
        policy = {"egress": [{"ports": [{"port": 443}]}], **values}
        return one(rendered(OPEN | {"networkPolicy": policy}), "NetworkPolicy", name)["spec"][
            "egress"
        ]

    elsewhere = {"ports": [{"port": 5353, "protocol": "UDP"}]}
    for name in (RELEASE, f"{RELEASE}-test"):
        (dns, *others) = allowed(name)
        assert {each["port"] for each in dns["ports"]} == {53}
        assert others
        assert allowed(name, dns=[elsewhere]) == [elsewhere, *others]
        assert allowed(name, dns=[]) == others


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected keys.secretName, a Secret with keys.json, or settings.oidc_issuer"),
        ({"insecure": True, "keys": {"secretName": "k"}}, "or insecure: true, got both"),
        (OPEN | {"settings": TOKENS}, "or insecure: true, got both"),
        (
            {"settings": TOKENS | {"oidc_audience": ""}},
            "settings.oidc_issuer: expected settings.oidc_audience",
        ),
        (
            {"settings": TOKENS | {"oidc_scope_claim": ""}},
            "settings.oidc_issuer: expected keys.secretName, a Secret with entries for tokens",
        ),
        (
            {"settings": TOKENS},
            "settings.oidc_issuer: expected networkPolicy.egress, rules that let the pods read",
        ),
        (
            OPEN | {"settings": {"otlp_endpoint": "http://a.example:4317"}},
            "settings.otlp_endpoint: expected networkPolicy.egress, rules that let the pods reach",
        ),
        (OPEN | {"service": {"restPort": 8001}}, "service: expected different ports"),
        (OPEN | {"tls": {"clientCa": True}}, "expected tls.secretName or tls.issuerRef"),
        (OPEN | {"test": {"caSecretName": "c"}}, "test.caSecretName: expected TLS of the pods"),
        (OPEN | {"models": {"bundled": False}}, "expected models to serve"),
        (OPEN | {"models": {"specs": {"a": "/models/claim/a.pt"}}}, "expected models.claimName"),
        (
            OPEN | {"models": {"specs": {"a": "orb:/models/images/x/a.pt"}}},
            'models.specs.a: expected an entry "x" of models.images',
        ),
        (
            OPEN | {"models": {"specs": {"a": "direct:/models/downloads/b.pt#sha256=00"}}},
            'models.specs.a: expected an entry "b.pt" of models.downloads',
        ),
        (
            OPEN | {"models": {"downloads": {"a.pt": {"url": "https://a/b"}}}},
            "sha256 is required",
        ),
        (
            OPEN | {"gpu": {"count": 2, "resource": "nvidia.com/mig-1g.10gb"}},
            "expected 1 of nvidia",
        ),
        (OPEN | {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "got both"),
        (
            OPEN | {"autoscaling": {"minReplicas": 5}},
            "got 5 and 4",
        ),
        (
            OPEN
            | {
                "monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}
            },
            "got both, which would count everything twice",
        ),
        (OPEN | {"rollingUpdate": {"maxSurge": 0}}, "expected maxSurge or maxUnavailable above 0"),
        (OPEN | {"gateway": {"enabled": True}}, "gateway: expected parentRefs"),
        (
            OPEN
            | {
                "gateway": {
                    "enabled": True,
                    "parentRefs": [{"name": "g"}],
                    "restHostnames": ["a.example"],
                    "grpcHostnames": ["a.example"],
                }
            },
            'expected other names than those of REST, got "a.example" for both',
        ),
        (OPEN | {"ingress": {"enabled": True}}, "ingress: expected rest.host or grpc.host"),
        (OPEN | {"settings": {"rest_port": 1}}, "rest_port is not allowed"),
        (OPEN | {"settings": {"max_batch_atom": 1}}, "max_batch_atom is not allowed"),
        (OPEN | {"settings": {"max_batch_atoms": 0}}, "settings.max_batch_atoms: Must be greater"),
        (OPEN | {"settings": {"watchdog": 0}}, "settings.watchdog: Must be greater"),
        (OPEN | {"settings": {"compile": "maybe"}}, "settings.compile"),
        (OPEN | {"replicas": 2}, "replicas is not allowed"),
        (OPEN | {"models": {"specs": {"a/b": "toy:harmonic"}}}, "a/b"),
        (OPEN | {"metricsPort": 8000}, "metricsPort"),
    ],
)
def test_values_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        template(values=values)


def test_variables_that_would_precede_what_the_chart_relies_on_are_refused():
    for name in sorted(generate.MADE | {"drain_timeout", "watchdog", "config"}):
        variable = f"{ENV_PREFIX}{name.upper()}"
        with pytest.raises(ValueError, match=f"in place of {variable}"):
            template(values=OPEN | {"env": [{"name": variable, "value": "1"}]})
    assert template(values=OPEN | {"env": [{"name": "TWINFORCE_MAX_WAITING", "value": "9"}]})


@pytest.mark.parametrize(
    ("values", "is_there"),
    [
        (OPEN, True),
        (OPEN | {"test": {"enabled": False}}, False),
        ({"keys": {"secretName": "k"}}, False),
        ({"keys": {"secretName": "k"}, "test": {"keySecretName": "t"}}, True),
        ({"settings": TOKENS} | ANYWHERE, False),
        ({"settings": TOKENS, "test": {"keySecretName": "t"}} | ANYWHERE, True),
        ({"tls": {"secretName": "t", "clientCa": True}}, False),
        ({"tls": {"secretName": "t", "clientCa": True}, "test": {"tlsSecretName": "c"}}, True),
    ],
)
def test_helm_test_is_there_if_it_has_what_callers_need(values, is_there):
    assert any(each["kind"] == "Pod" for each in rendered(values)) is is_there


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ({}, None),
        ({"tls": {"secretName": "t"}}, None),  # which need not have an item ca.crt
        ({"tls": {"secretName": "t"}, "test": {"caSecretName": "c"}}, "c"),
        ({"tls": {"issuerRef": {"name": "i"}}}, f"{RELEASE}-tls"),
        ({"tls": {"issuerRef": {"name": "i"}, "secretName": "t"}}, "t"),
        ({"tls": {"issuerRef": {"name": "i"}}, "test": {"caSecretName": "c"}}, "c"),
    ],
)
def test_helm_test_trusts_the_authority_of_a_secret_or_those_of_the_image(values, secret):
    (pod,) = (each["spec"] for each in rendered(OPEN | values) if each["kind"] == "Pod")
    (container,) = pod["containers"]
    secrets = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    trusted = [each["value"] for each in container["env"] if each["name"] == "TWINFORCE_CA"]
    if secret is None:
        assert (secrets, trusted) == ({}, [])
        assert mounts.keys() == {"program"}
    else:
        (item,) = secrets["ca"]["items"]
        assert (secrets["ca"]["secretName"], item["key"]) == (secret, "ca.crt")
        assert trusted == [f"{mounts['ca']}/{item['path']}"]


def test_an_old_kubernetes_is_refused():
    with pytest.raises(ValueError, match="kubeVersion"):
        template(values=OPEN, version="1.25.0")
