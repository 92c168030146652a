"""Keys, from the client to the service and back, over both transports."""

import asyncio
import io
import logging
import pickle
import traceback

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.clients.conftest import url_of
from tests.clients.serving import TOY, serve
from tests.clients.test_outages import start
from tests.service.callers.making import add_key, run_keys
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import (
    AsyncClient,
    Client,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
)
from twinforce.ase import TwinForceCalculator
from twinforce.cli import run
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

CALLS = {
    "predict": lambda client: client.predict(molecule(), model="lj"),
    "stream": lambda client: client.stream("lj").predict(molecule()),
    "nonconservativity": lambda client: client.nonconservativity(molecule(), "lj"),
    "propagate": lambda client: list(client.propagate(start(), 4, 2, model="lj")),
    "relax": lambda client: list(client.relax(molecule(), max_steps=2, model="lj")),
    "models": lambda client: client.models(),
    "model": lambda client: client.model("lj"),
    "status": lambda client: client.status(),
}
SCOPED = ["predict", "nonconservativity", "propagate", "relax"]
EXPECTED = "expected the header 'Authorization: Bearer KEY' with a key of this service, got none"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("TWINFORCE_KEY", "TWINFORCE_INSECURE_KEY", "TWINFORCE_CA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keys(key_file):
    """Return the texts of keys by name."""
    narrow = [f"only-{scope}" for scope in SCOPED]
    return {
        "alice": add_key(key_file, "alice"),
        "observer": add_key(key_file, "observer", "--scope", "metrics"),
        "admin": add_key(key_file, "admin", "--scope", "admin"),
        "other": add_key(key_file, "other", "--models", "second"),
        "late": add_key(key_file, "late", "--expires", "2020-01-01"),
    } | {name: add_key(key_file, name, "--scope", name.removeprefix("only-")) for name in narrow}


@pytest.fixture(scope="module")
def server(keys, key_file):
    assert keys
    models = {"lj": TOY, "second": TOY}
    with serve(model=models, keys=str(key_file), engine="thread") as server:
        yield server


@pytest.mark.parametrize("name", CALLS)
def test_every_call_needs_a_key_and_works_with_one(url, keys, name):
    with Client(url) as client, pytest.raises(UnauthenticatedError) as caught:
        CALLS[name](client)
    assert str(caught.value) == EXPECTED
    with Client(url, key=keys["alice"]) as client:
        assert CALLS[name](client)


@pytest.mark.parametrize("name", SCOPED)
def test_a_key_opens_the_calls_of_its_scopes_only(url, keys, name):
    for scope in SCOPED:
        with Client(url, key=keys[f"only-{scope}"]) as client:
            if name == scope:
                assert CALLS[name](client)
            else:
                with pytest.raises(PermissionDeniedError, match=f"the scope {name}, got {scope}$"):
                    CALLS[name](client)
    with Client(url, key=keys["admin"]) as client:
        assert CALLS[name](client)


@pytest.mark.parametrize("name", [*SCOPED, "stream", "model"])
def test_a_key_is_for_its_models_only_whether_others_exist_or_not(url, keys, name):
    with Client(url, key=keys["other"]) as client:
        assert [info.name for info in client.models()] == ["second"]
        assert client.predict(molecule()).provenance.model == "second"
        with pytest.raises(PermissionDeniedError, match=r"'other' is for \(second\), got 'lj'"):
            CALLS[name](client)
        with pytest.raises(PermissionDeniedError, match="got 'no-such'"):
            client.predict(molecule(), model="no-such")


def test_a_stream_that_turns_to_another_model_is_refused_there(server, keys):
    metadata = (("authorization", f"Bearer {keys['other']}"),)
    messages = iter([pb.StreamRequest(model=name) for name in ("second", "lj")])
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        replies = list(InferenceStub(channel).PredictStream(messages, metadata=metadata))
    kinds = [reply.error.type for reply in replies]
    assert kinds == ["InvalidRequestError", "PermissionDeniedError"]


def test_an_expired_key_is_told_so(url, keys):
    expected = pytest.raises(UnauthenticatedError, match="the key 'late' expired at 2020-01-01")
    with Client(url, key=keys["late"]) as client, expected:
        client.models()


def test_asyncio_the_calculator_and_the_command_line_give_the_key(url, keys, tmp_path, capsys):
    async def ask():
        async with AsyncClient(url, key=keys["alice"]) as client, client.stream("lj") as stream:
            return [await client.predict(molecule(), model="lj"), await stream.predict(molecule())]

    assert len(asyncio.run(ask())) == 2
    with TwinForceCalculator(url, model="lj", key=keys["alice"]) as calculator:
        assert calculator.client.model("lj").name == "lj"
    file = tmp_path / "key"
    file.write_text(keys["alice"] + "\n")
    assert run(["models", "--url", url, "--key-file", str(file)]) == 0
    assert "second" in capsys.readouterr().out
    assert run(["models", "--url", url]) == 1
    assert "UnauthenticatedError" in capsys.readouterr().err
    file.write_text("\n")
    assert run(["models", "--url", url, "--key-file", str(file)]) == 2


def test_the_environment_gives_a_key_unless_the_argument_does(url, keys, monkeypatch):
    monkeypatch.setenv("TWINFORCE_KEY", keys["alice"])
    with Client(url) as client:
        assert len(client.models()) == 2
    with Client(url, key=keys["other"]) as client:
        assert len(client.models()) == 1
    with Client(url, key="") as client, pytest.raises(UnauthenticatedError):
        client.models()


def test_copies_of_a_client_keep_the_key(url, keys):
    with Client(url, key=keys["alice"]) as client, client.with_timeout(30.0) as other:
        assert len(other.models()) == 2
        with pickle.loads(pickle.dumps(client)) as copied:
            assert len(copied.models()) == 2


def test_a_key_is_not_sent_where_others_can_read_it(transport, keys, monkeypatch):
    scheme = "http" if transport == "rest" else "grpc"
    for kind in (Client, AsyncClient, TwinForceCalculator):
        with pytest.raises(ValueError, match=f"^key: expected a url that begins with {scheme}s://"):
            kind(f"{scheme}://192.0.2.1:8000", key=keys["alice"])
        kind(f"{scheme}s://192.0.2.1:8000", key=keys["alice"])
        kind(f"{scheme}://192.0.2.1:8000", key=keys["alice"], insecure_key=True)
        kind(f"{scheme}://localhost:8000", key=keys["alice"])
    monkeypatch.setenv("TWINFORCE_KEY", keys["alice"])
    with pytest.raises(ValueError, match=r"^key: expected a url") as caught:
        Client(f"{scheme}://192.0.2.1:8000")
    assert keys["alice"] not in str(caught.value)
    monkeypatch.setenv("TWINFORCE_INSECURE_KEY", "1")
    Client(f"{scheme}://192.0.2.1:8000")


@pytest.mark.parametrize("key", ["a b", "ä", "a\nb", "a\0b", 7, b"key"])
def test_what_cannot_be_a_key_is_refused_without_repeating_it(key):
    with pytest.raises(ValueError, match=r"^key: expected ") as caught:
        Client("http://127.0.0.1:1", key=key)
    assert repr(key) not in str(caught.value)


def test_liveness_alone_is_open_over_rest(server, keys):
    paths = ["/health/ready", "/metrics", "/v1/models", "/docs", "/openapi.json", "/no/such/path"]
    with httpx2.Client(base_url=server.rest_url) as http:
        assert http.get("/health/live").status_code == 200
        for path in paths:
            reply = http.get(path)
            assert reply.status_code == 401, path
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["type"] == "urn:twinforce:error:UnauthenticatedError"
            assert reply.headers["x-request-id"]
        for path in ("/health/live/", "//health/live", "/health/live/../ready", "/HEALTH/LIVE"):
            assert http.get(path).status_code in (401, 404), path
        headers = {"authorization": f"bearer {keys['alice']}"}
        assert http.get("/health/ready", headers=headers).status_code == 200
        assert http.get("/metrics", headers=headers).status_code == 403
        headers = {"authorization": f"Bearer {keys['observer']}"}
        assert http.get("/metrics", headers=headers).status_code == 200


def test_a_check_of_health_alone_is_open_over_grpc(server, keys):
    metadata = (("authorization", f"Bearer {keys['alice']}"),)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1
        watches = [
            lambda **options: next(health.Watch(health_pb2.HealthCheckRequest(), **options)),
            lambda **options: next(reflection.ServerReflectionInfo(iter([question]), **options)),
        ]
        for watch in watches:
            with pytest.raises(grpc.RpcError) as caught:
                watch()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert watch(metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/twinforce.v1.Inference/NoSuchMethod")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def grpc_status(server, metadata):
    """Return the status that a call with this metadata ends with."""
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        call = InferenceStub(channel).ListModels.future(pb.ListModelsRequest(), metadata=metadata)
        return call.code()


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearer", "tf_x", "Bearer a b c"])
def test_other_headers_are_no_key(server, value):
    reply = httpx2.get(f"{server.rest_url}/v1/models", headers={"authorization": value})
    assert reply.status_code == 401
    assert "dTpw" not in reply.text
    assert grpc_status(server, [("authorization", value)]) is grpc.StatusCode.UNAUTHENTICATED


def test_two_headers_are_refused_even_if_one_is_right(server, keys):
    good = f"Bearer {keys['alice']}"
    headers = [("authorization", good), ("authorization", "Bearer x")]
    reply = httpx2.get(f"{server.rest_url}/v1/models", headers=headers)
    assert reply.status_code == 401
    assert grpc_status(server, headers) is grpc.StatusCode.UNAUTHENTICATED


def test_there_is_no_cross_origin_sharing(server, keys):
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    preflight = httpx2.options(f"{server.rest_url}/v1/models/lj/predict", headers=headers)
    assert preflight.status_code == 401
    headers |= {"authorization": f"Bearer {keys['alice']}"}
    reply = httpx2.get(f"{server.rest_url}/v1/models", headers=headers)
    for each in (preflight, reply):
        assert not [name for name in each.headers if name.startswith("access-control")]


def test_a_body_is_not_read_before_the_key(server):
    """The refusal comes although the body never ends."""

    def endless():
        while True:
            yield b" " * 65536

    with httpx2.Client(base_url=server.rest_url) as http:
        try:
            reply = http.post("/v1/models/lj/predict", content=endless(), timeout=30.0)
        except httpx2.NetworkError:  # the service closed the connection
            return
    assert reply.status_code == 401


def test_a_revoked_key_ends_streams_and_runs_soon(url, tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "alice")
    with serve(keys=str(file), engine="thread", max_propagation_steps=10**6) as server:
        own = url_of(server, "grpc" if url.startswith("grpc") else "rest")
        with Client(own, key=key) as client, client.stream("lj") as stream:
            run_of_steps = client.propagate(start(), 10**6, 2, model="lj")
            next(run_of_steps)
            stream.predict(molecule())
            run_keys(file, "revoke", "alice")
            with pytest.raises(UnauthenticatedError, match="revoked"):
                for _ in run_of_steps:
                    pass
            with pytest.raises(UnauthenticatedError, match="revoked"):
                stream.predict(molecule())
        new = add_key(file, "bob")
        with Client(own, key=new) as client:
            wait_until(lambda: _works(client))


def _works(client):
    try:
        return bool(client.models())
    except UnauthenticatedError:
        return False


def told_by(client, call):
    """Return all that a call shows: its reply, or its error with the values of all variables."""
    try:
        return repr(call(client))
    except ServiceError as error:
        found = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(found.format()) + repr(error.to_dict())


def test_keys_are_in_no_log_error_or_traceback(url, keys):
    """Everything that the client, the service and their libraries say, at the lowest level."""
    said = io.StringIO()
    watcher = logging.StreamHandler(said)
    root = logging.getLogger()
    before = root.level
    root.addHandler(watcher)
    root.setLevel(1)
    texts, wrong = [], keys["alice"][:-4] + "zzzz"
    try:
        for key in (keys["alice"], keys["other"], keys["late"], wrong):
            with Client(url, key=key) as client:
                texts += [repr(client), str(client.__dict__), repr(client._options)]
                for call in list(CALLS.values())[: 1 if key is wrong else None]:
                    texts.append(told_by(client, call))
    finally:
        root.removeHandler(watcher)
        root.setLevel(before)
    everything = said.getvalue() + "".join(texts)
    assert "UnauthenticatedError" in everything
    assert "'alice'" not in said.getvalue()
    for key in (*keys.values(), wrong):
        assert key.split("_")[2] not in everything
