"""Tokens of an issuer, from the client to the service and back, over both transports."""

import asyncio
import io
import json
import logging
import pickle
import time
from contextlib import ExitStack
from functools import partial

import httpx2
import pytest

from tests.clients.conftest import url_of
from tests.clients.serving import TOY, serve
from tests.clients.test_keys import CALLS, SCOPED, told_by
from tests.clients.test_outages import start
from tests.service.callers.issuer import AUDIENCE, SigningPair, issuing
from tests.service.callers.making import add_key
from tests.service.callers.test_tokens import forged
from tests.systems import molecule
from twinforce import (
    AsyncClient,
    Client,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from twinforce.ase import TwinForceCalculator
from twinforce.cli import run
from twinforce_service import access
from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.tokens import key_set, token_ring

VARIABLES = ("TWINFORCE_KEY", "TWINFORCE_KEY_FILE", "TWINFORCE_INSECURE_KEY", "TWINFORCE_CA")
HOUR = 3600
TOKEN_RING, KEY_SET = token_ring.TokenRing, key_set.KeySet


class Times:
    """The clocks of a service, which tests move."""

    def __init__(self):
        self.later = 0.0

    def now(self):
        return time.time() + self.later

    def ticks(self):
        return time.monotonic() + self.later


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def issuer():
    with issuing() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def times():
    return Times()


@pytest.fixture(autouse=True)
def forgiven(times):
    """Let hours pass for the service after each test."""
    yield
    times.later += 2 * HOUR


def moved_clocks(patch, times):
    """Let the parts of a service that is made now use other clocks."""
    patch.setattr(token_ring, "TokenRing", partial(TOKEN_RING, clock=times.now))
    patch.setattr(key_set, "KeySet", partial(KEY_SET, clock=times.ticks))
    patch.setattr(access, "FailedAttempts", lambda: FailedAttempts(times.ticks))


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    entries = {
        f"only-{scope}": {"claims": {"groups": scope}, "scopes": [scope]} for scope in SCOPED
    }
    entries["seconds"] = {"claims": {"groups": "second"}, "models": ["second"]}
    entries["staff"] = {"claims": {"groups": "staff"}}
    file.write_text(json.dumps({"keys": entries}))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def alice(key_file):
    return add_key(key_file, "alice")


@pytest.fixture(scope="module")
def server(issuer, times, key_file, alice):
    assert alice
    with pytest.MonkeyPatch.context() as patch:
        moved_clocks(patch, times)
        with serve(
            model={"lj": TOY, "second": TOY},
            keys=str(key_file),
            oidc_issuer=issuer.url,
            oidc_audience=AUDIENCE,
            engine="thread",
            max_propagation_steps=10**6,
        ) as server:
            yield server


@pytest.fixture
def token(issuer, times):
    """Return a function that makes tokens of the staff, valid for an hour."""

    def make(**claims):
        given = {"groups": ["staff"], "exp": times.now() + HOUR}
        return issuer.token(**given | claims)

    return make


@pytest.mark.parametrize("name", CALLS)
def test_every_call_works_with_a_token_and_with_a_key(url, alice, token, name):
    for key in (token(), alice):
        with Client(url, key=key) as client:
            assert CALLS[name](client)


@pytest.mark.parametrize("name", SCOPED)
def test_a_token_opens_the_calls_of_its_entry_only(url, token, name):
    for scope in SCOPED:
        with Client(url, key=token(groups=[scope])) as client:
            if name == scope:
                assert CALLS[name](client)
            else:
                with pytest.raises(PermissionDeniedError, match=f"the scope {name}, got {scope}$"):
                    CALLS[name](client)


def test_a_token_is_for_the_models_of_its_entry_only(url, token):
    with Client(url, key=token(groups="second")) as client:
        assert [info.name for info in client.models()] == ["second"]
        with pytest.raises(PermissionDeniedError, match=r"'seconds:ada' is for \(second\)"):
            client.predict(molecule(), model="lj")


def test_a_token_that_no_entry_is_for_is_denied(url, token):
    with Client(url, key=token(groups=[])) as client, pytest.raises(PermissionDeniedError):
        client.models()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example"}, "it is of another issuer"),
        ({"aud": "another"}, "it is for another audience"),
        ({"exp": 1000}, "the token expired at 1970-01-01T00:16:40"),
        ({"nbf": 4e9}, "the token is not valid before 2096"),
        ({"exp": None}, "it lacks the claim exp"),
    ],
)
def test_a_token_with_wrong_claims_is_refused(url, token, claims, reason):
    expected = pytest.raises(UnauthenticatedError, match=reason)
    with Client(url, key=token(**claims)) as client, expected:
        client.models()


@pytest.mark.parametrize("kind", ["no algorithm", "the public key as a shared secret",
                                  "another key of the same name", "other claims"])  # fmt: skip
def test_a_forged_token_is_refused(url, issuer, kind):
    with Client(url, key=forged(issuer, kind)) as client, pytest.raises(UnauthenticatedError):
        client.models()


def test_a_token_with_a_new_key_of_the_issuer_is_accepted_and_one_of_strangers_is_not(
    url, issuer, token, times
):
    issuer.rotate(f"next-{time.monotonic_ns()}", "RS256")
    times.later += 10.0
    with Client(url, key=token()) as client:
        assert client.models()
    stranger = SigningPair("stranger").sign(issuer.claims(groups=["staff"]))
    times.later += 10.0
    expected = pytest.raises(UnauthenticatedError, match="none of the keys of the issuer")
    with Client(url, key=stranger) as client, expected:
        client.models()


def test_wrong_tokens_are_limited_by_address_and_right_ones_go_on(url, token):
    good = token()
    with Client(url, key=good) as client:
        client.models()
        errors = []
        for n in range(12):
            with Client(url, key=token(aud=str(n)), timeout=1.0) as other:
                with pytest.raises((UnauthenticatedError, OverloadedError)) as caught:
                    other.models()
                errors.append(caught.type)
        assert errors[:10] == [UnauthenticatedError] * 10
        assert errors[-1] is OverloadedError
        assert client.models()


def test_an_issuer_that_is_down_at_start_is_waited_for(issuer, transport):
    times, claims = Times(), {"scope": "predict"}
    issuer.is_down = True
    with pytest.MonkeyPatch.context() as patch:
        moved_clocks(patch, times)
        settings = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "engine": "thread"}
        with serve(**settings, oidc_scope_claim="scope") as server:
            url = url_of(server, transport)
            expected = pytest.raises(UnavailableError, match="the keys of http://127")
            with Client(url, key=issuer.token(**claims), timeout=0.2) as client, expected:
                client.models()
            issuer.is_down = False
            times.later += 60.0
            with Client(url, key=issuer.token(**claims)) as client:
                assert client.predict(molecule(), model="lj")
                with pytest.raises(PermissionDeniedError):
                    CALLS["relax"](client)
            with Client(url) as client, pytest.raises(UnauthenticatedError, match="got none"):
                client.models()
            with Client(url, key="tf_x") as client, pytest.raises(UnauthenticatedError):
                client.models()


class Source:
    """A function that returns a key, and counts how often."""

    def __init__(self, *texts):
        self.texts, self.n_asked = list(texts), 0

    def __call__(self):
        self.n_asked += 1
        return self.texts[0] if len(self.texts) == 1 else self.texts.pop(0)


def test_a_walker_whose_token_expires_goes_on_with_a_new_one_and_loses_no_step(url, token, times):
    source = Source(token())
    with Client(url, key=source) as client, client.stream("lj") as stream:
        expected = stream.predict(molecule()).energy
        for _ in range(3):
            times.later += 2 * HOUR
            source.texts = [token()]
            assert stream.predict(molecule()).energy == expected
    with Client(url, key=token()) as client, client.stream("lj") as stream:
        stream.predict(molecule())
        times.later += 2 * HOUR
        with pytest.raises(UnauthenticatedError, match="the token expired at 20"):
            stream.predict(molecule())


def test_an_asyncio_walker_goes_on_with_a_new_token(url, token, times):
    source = Source(token())

    async def walk():
        async with AsyncClient(url, key=source) as client, client.stream("lj") as stream:
            first = await stream.predict(molecule())
            times.later += 2 * HOUR
            source.texts = [token()]
            return first.energy == (await stream.predict(molecule())).energy

    assert asyncio.run(walk())


def test_a_run_whose_token_expires_resumes_with_a_new_one_from_its_last_update(url, token, times):
    with Client(url, key=token()) as client:
        expected = [s.positions for s in client.propagate(start(), 10, 2, model="lj")]
    source = Source(token())
    found = []
    with Client(url, key=source) as client:
        for snapshot in client.propagate(start(), 10, 2, model="lj"):
            found.append(snapshot.positions)
            times.later += 2 * HOUR
            source.texts = [token()]
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]


def test_the_last_update_of_a_run_comes_although_its_token_has_expired(url, token, times):
    """A run of ten minutes with tokens of five minutes would never end otherwise."""
    with Client(url, key=token()) as client:
        client.models()
        run_of_steps = client.propagate(start(), 200, model="lj")
        assert next(run_of_steps).step == 0
        times.later += 2 * HOUR
        assert [snapshot.step for snapshot in run_of_steps] == [200]
        with pytest.raises(UnauthenticatedError, match="the token expired"):
            client.models()


def test_a_key_that_stays_wrong_is_asked_for_once_more_and_no_longer(url, token):
    source = Source(token(aud="another"))
    with Client(url, key=source) as client, pytest.raises(UnauthenticatedError):
        client.models()
    assert source.n_asked == 2
    source = Source(token(aud="another"))
    with Client(url, key=source, max_retries=0) as client, pytest.raises(UnauthenticatedError):
        client.models()
    assert source.n_asked == 1


def test_a_file_of_a_token_is_read_again_for_each_call(url, token, times, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(token() + "\n")
    monkeypatch.setenv("TWINFORCE_KEY_FILE", str(file))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(url)), stack.enter_context(Client(url, key=file))]
        clients.append(stack.enter_context(TwinForceCalculator(url)).client)
        clients.append(stack.enter_context(pickle.loads(pickle.dumps(clients[0]))))
        for _ in range(2):
            assert [len(client.models()) for client in clients] == [2, 2, 2, 2]
            times.later += 2 * HOUR
            new = tmp_path / "new"
            new.write_text(token())
            new.replace(file)
        assert len(clients[0].models()) == 2
        file.unlink()
        assert len(clients[0].models()) == 2
    monkeypatch.delenv("TWINFORCE_KEY_FILE")
    file.write_text(token())
    assert run(["models", "--url", url, "--key-file", str(file)]) == 0


@pytest.mark.parametrize("text", ["", "\n", "a b", None])
def test_a_file_that_holds_no_key_is_refused(tmp_path, text):
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=r"^key: expected "):
        Client("http://127.0.0.1:1", key=file)


def test_tokens_are_in_no_log_error_or_traceback(url, issuer, token, times):
    said = io.StringIO()
    watcher = logging.StreamHandler(said)
    root = logging.getLogger()
    before = root.level
    root.addHandler(watcher)
    root.setLevel(1)
    texts, kinds = [], [token(), token(aud="x"), token(exp=1), forged(issuer, "nonsense")]
    kinds.append(SigningPair("stranger").sign(issuer.claims()))
    try:
        for key in kinds:
            times.later += 10.0
            with Client(url, key=lambda key=key: key) as client:
                texts += [repr(client), str(client.__dict__), repr(client._options)]
                for call in list(CALLS.values())[: None if key is kinds[0] else 1]:
                    texts.append(told_by(client, call))
    finally:
        root.removeHandler(watcher)
        root.setLevel(before)
    everything = said.getvalue() + "".join(texts)
    assert "UnauthenticatedError" in everything
    assert "'ada'" not in said.getvalue()
    for key in (kinds[0], kinds[1], kinds[2], kinds[4]):
        for secret in key.split(".")[1:]:
            assert secret not in everything


def test_metrics_name_the_entry_and_the_owner_of_a_token(server, token, key_file):
    observer = add_key(key_file, f"observer-{time.monotonic_ns()}", "--scope", "metrics")
    with Client(server.rest_url, key=token(sub="grace")) as client:
        client.predict(molecule(), model="lj")
    headers = {"authorization": f"Bearer {observer}"}

    def metrics():
        reply = httpx2.get(f"{server.rest_url}/metrics", headers=headers)
        return reply.text if reply.status_code == 200 else ""

    deadline = time.monotonic() + 60
    while 'twinforce_caller_atoms_total{caller="staff:grace"}' not in metrics():
        assert time.monotonic() < deadline
        time.sleep(0.05)
