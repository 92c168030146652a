"""Tokens of an issuer: which are accepted, what they allow, and how the keys are kept."""

import asyncio
import gc
import hashlib
import hmac
import json
import time
from types import SimpleNamespace

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from tests.service.callers.issuer import AUDIENCE, SigningPair, issuing, part
from tests.service.callers.making import add_key, run_keys
from twinforce_proto import (
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.entry import AccessEntry
from twinforce_service.callers.key_file import KeyFileError, TokenRule, read_keys
from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.callers.tokens.key_set import KeySet
from twinforce_service.callers.tokens.key_source import KeySource, KeySourceError
from twinforce_service.callers.tokens.policy import TokenPolicy
from twinforce_service.callers.tokens.signing_keys import ALGORITHMS, parse_keys
from twinforce_service.callers.tokens.token_ring import TokenRing
from twinforce_service.context import caller, check_again
from twinforce_service.transports.key_check import KeyCheck

HERE = "127.0.0.1"
EVERYBODY = (TokenRule(name="all", claims={}),)
DAY = 86_400


@pytest.fixture
def issuer():
    with issuing() as issuer:
        yield issuer


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def make_ring(issuer, rules=EVERYBODY, source=None, **policy):
    """Return a ring of tokens, and the clocks of its tokens and of its keys."""
    clock, ticks = Clock(time.time()), Clock(1000.0)
    policy = TokenPolicy(issuer.url, (AUDIENCE, "other"), **policy)
    keys = KeySet(source or KeySource(issuer.url), ticks)
    given = SimpleNamespace(rules=rules)
    ring = TokenRing(policy, keys, lambda: given.rules, FailedAttempts(lambda: 0.0), clock)
    return ring, SimpleNamespace(clock=clock, ticks=ticks, rules=given, keys=keys)


async def outcome(ring, token):
    try:
        return await ring.verify(token, HERE)
    except Exception as error:
        return error


def verify(ring, *tokens):
    """Return what each token allows, or the error."""

    async def run():
        return [await outcome(ring, token) for token in tokens]

    return asyncio.run(run())


def refusal(issuer, token, **policy):
    ring, _ = make_ring(issuer, **policy)
    (error,) = verify(ring, token)
    assert isinstance(error, UnauthenticatedError), error
    assert token not in str(error)
    assert ring.find(token) is None
    return str(error).replace(issuer.url, "ISSUER")


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_token_of_any_allowed_algorithm_is_accepted(issuer, algorithm):
    issuer.pairs = [SigningPair("k", algorithm)]
    ring, _ = make_ring(issuer)
    token = issuer.token()
    assert ring.find(token) is None
    (entry,) = verify(ring, token)
    assert entry.caller.name == "all:ada"
    assert ring.find(token) is entry


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example"}, "it is of another issuer"),
        ({"iss": None}, "it lacks the claim iss"),
        ({"aud": "another"}, "it is for another audience"),
        ({"aud": ["a", "b"]}, "it is for another audience"),
        ({"aud": None}, "it lacks the claim aud"),
        ({"exp": None}, "it lacks the claim exp"),
        ({"exp": 1e300}, "its claim exp is no time"),
        ({"exp": "9999999999"}, "its claim exp is no time"),
        ({"nbf": True}, "its claim nbf is no time"),
    ],
)
def test_a_token_with_wrong_claims_is_refused_with_the_reason(issuer, claims, reason):
    expected = f"expected a token of ISSUER for twinforce or other; {reason}"
    assert refusal(issuer, issuer.token(**claims)) == expected


def test_a_token_for_several_audiences_is_for_each(issuer):
    ring, _ = make_ring(issuer)
    (entry,) = verify(ring, issuer.token(aud=["x", "other"]))
    assert entry.caller.name == "all:ada"


def forged(issuer, kind):
    """Return a token that somebody without the private key could make."""
    claims, kid = part(issuer.claims()), issuer.pairs[-1].name
    if kind == "no algorithm":
        return f"{part({'alg': 'none', 'kid': kid})}.{claims}."
    if kind == "the public key as a shared secret":
        pair = issuer.pairs[-1]
        head = f"{part({'alg': 'HS256', 'kid': kid})}.{claims}"
        secret = json.dumps(pair.jwk).encode()
        return f"{head}.{part(hmac.digest(secret, head.encode(), hashlib.sha256))}"
    if kind == "another key of the same name":
        return SigningPair(kid).sign(issuer.claims())
    if kind == "a key in the header":
        other = SigningPair("own")
        return other.sign(issuer.claims(), kid=kid, jwk=other.jwk)
    if kind == "an extension":
        return issuer.pairs[-1].sign(issuer.claims(), crit=["exp"])
    if kind == "other claims":
        head, _, signature = issuer.token().split(".")
        return f"{head}.{part(issuer.claims(sub='root'))}.{signature}"
    if kind == "another algorithm of the key":
        return f"{part({'alg': 'ES384', 'kid': kid})}.{claims}.{part(b'x' * 96)}"
    return {"nonsense": "a.b.c", "nesting": f"{part(b'[' * 9000)}.e30.e30"}[kind]


@pytest.mark.parametrize(
    "kind",
    ["no algorithm", "the public key as a shared secret", "another key of the same name",
     "a key in the header", "an extension", "other claims", "another algorithm of the key",
     "nonsense", "nesting"],
)  # fmt: skip
def test_a_forged_token_is_refused(issuer, kind):
    assert refusal(issuer, forged(issuer, kind)).startswith("expected a token of ISSUER")


ODD = [None, True, 7, 1e300, "", "\ud800", [], ["ES256"], {}, {"a": []}]


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "crit", "b64", "cty", "jku"])
def test_a_token_with_an_odd_header_is_refused_and_counted(issuer, name):
    claims, kid = part(issuer.claims()), issuer.pairs[-1].name
    heads = [{"alg": "ES256", "kid": kid} | {name: value} for value in ODD]
    heads += [[], 7, "x", None]
    tokens = [f"{part(head)}.{claims}.{part(b'x' * 64)}" for head in heads]
    for first, others in ((tokens[:10], tokens[10:]), (tokens[-10:], tokens[:-10])):
        ring, _ = make_ring(issuer)
        errors = verify(ring, *first, *others)
        assert {type(error) for error in errors[:10]} == {UnauthenticatedError}
        assert {type(error) for error in errors[10:]} == {OverloadedError}


@pytest.mark.parametrize(
    "name", ["sub", "aud", "iss", "exp", "nbf", "iat", "jti", "scope", "groups"]
)
def test_a_token_of_the_issuer_with_odd_claims_is_accepted_or_refused(issuer, name):
    rules = (TokenRule(name="r", claims={"groups": {"a": ["b"]}}), *EVERYBODY)
    ring, _ = make_ring(issuer, rules, scope_claim="scope", scope_prefix="tf:")
    given = [issuer.claims(scope="tf:predict") | {name: value} for value in ODD]
    for claims in given:
        head = f"{part({'alg': 'ES256', 'kid': issuer.pairs[-1].name})}.{part(claims)}"
        signer = jwt.get_algorithm_by_name("ES256")
        signature = signer.sign(head.encode(), issuer.pairs[-1].private)
        (found,) = verify(ring, f"{head}.{part(signature)}")
        assert isinstance(
            found, AccessEntry | UnauthenticatedError | PermissionDeniedError | OverloadedError
        )


def test_a_huge_token_is_refused_unread(issuer):
    assert "more than 16384 letters" in refusal(issuer, issuer.token(x="y" * 20_000))


def test_a_token_is_valid_between_its_times_give_or_take_a_minute(issuer):
    ring, given = make_ring(issuer)
    start = given.clock.now
    token = issuer.token(nbf=start + 100, exp=start + 200)
    (error,) = verify(ring, token)
    assert isinstance(error, UnauthenticatedError)
    assert "the token is not valid before" in str(error)
    given.clock.now = start + 41
    assert ring.find(token).caller.name == "all:ada"
    given.clock.now = start + 259
    assert ring.find(token).caller.name == "all:ada"
    given.clock.now = start + 261
    with pytest.raises(UnauthenticatedError, match="the token expired at 20"):
        ring.find(token)
    assert ring.find(token, may_be_expired=True).caller.name == "all:ada"


def test_expired_tokens_of_the_issuer_do_not_count_as_attempts_and_wrong_ones_do(issuer):
    ring, _ = make_ring(issuer)
    errors = verify(ring, *(issuer.token(exp=1000 + n) for n in range(20)))
    assert {type(error) for error in errors} == {UnauthenticatedError}
    errors = verify(ring, *(issuer.token(aud=str(n)) for n in range(11)))
    assert {type(error) for error in errors[:-1]} == {UnauthenticatedError}
    assert isinstance(errors[-1], OverloadedError)
    assert errors[-1].retry_after > 0


def test_claims_choose_the_first_entry_that_matches(issuer, tmp_path):
    file = tmp_path / "keys.json"
    entries = {
        "robots": {"claims": {"kubernetes.io": {"namespace": ["md", "ml"]}}, "share": 2},
        "chemists": {"claims": {"groups": "chem", "mail_ok": True}, "models": ["water"]},
        "rest": {"claims": {}, "scopes": ["metrics"], "limits": {"max_runs": 3}},
    }
    file.write_text(json.dumps({"keys": entries}))
    file.chmod(0o600)
    ring, _ = make_ring(issuer, tuple(read_keys(file).values()))
    robot, chemist, liar, other = verify(
        ring,
        issuer.token(**{"kubernetes.io": {"namespace": "ml", "pod": {}}}, sub="system:sa:x"),
        issuer.token(groups=["a", "chem"], mail_ok=True),
        issuer.token(groups=["a", "chem"], mail_ok=1),
        issuer.token(sub="Ä/1"),
    )
    assert (robot.caller.name, robot.caller.share) == ("robots:system:sa:x", 2)
    assert chemist.permission.models == {"water"}
    assert liar.caller.name == "rest:ada"
    assert other.caller.name == "rest:%C3%84/1"
    assert (other.permission.scopes, other.caller.limits.max_runs) == ({"metrics"}, 3)


def test_a_token_that_no_entry_is_for_is_denied_and_allowed_once_the_file_says_so(issuer):
    ring, given = make_ring(issuer, ())
    token = issuer.token()
    assert [type(each) for each in verify(ring, token, token)] == [PermissionDeniedError] * 2
    given.rules.rules = EVERYBODY
    assert ring.find(token).caller.name == "all:ada"
    given.rules.rules = ()
    with pytest.raises(PermissionDeniedError):
        ring.find(token)


@pytest.mark.parametrize(
    ("claim", "rule", "expected"),
    [
        ("openid tf:predict tf:relax", None, {"predict", "relax"}),
        (["tf:metrics", 7], None, {"metrics"}),
        ("tf:admin", None, {"admin"}),
        ("tf:predict tf:metrics", ["predict", "relax"], {"predict"}),
        ("tf:admin", ["predict", "relax"], {"predict", "relax"}),
        ("tf:relax", ["admin"], {"relax"}),
        ("predict", None, None),
        ("tf:metrics", ["predict"], None),
        ({"tf:predict": 1}, None, None),
        (None, None, None),
    ],
)
def test_scopes_are_those_of_both_the_claim_and_the_entry(issuer, claim, rule, expected):
    rules = () if rule is None else (TokenRule(name="r", claims={}, scopes=frozenset(rule)),)
    ring, _ = make_ring(
        issuer, rules, scope_claim="realm_access.roles", scope_prefix="tf:", name_claim="mail"
    )
    (entry,) = verify(ring, issuer.token(realm_access={"roles": claim}, mail="a@b"))
    if expected is None:
        assert isinstance(entry, PermissionDeniedError)
    else:
        assert entry.permission.scopes == expected
        assert entry.caller.name.endswith(":a@b")


@pytest.mark.parametrize("name", [None, "", 7, "x" * 256])
def test_a_token_must_name_its_owner(issuer, name):
    ring, _ = make_ring(issuer, name_claim="mail")
    (error,) = verify(ring, issuer.token(mail=name))
    assert isinstance(error, UnauthenticatedError)
    assert "the claim mail: expected a text of at most 255 letters" in str(error)


def test_a_new_key_is_fetched_when_a_token_needs_it_and_not_more_often_than_every_5_s(issuer):
    ring, given = make_ring(issuer)
    verify(ring, issuer.token())
    n_asked = len(issuer.asked)
    issuer.rotate("second", "RS256")
    given.ticks.now += 1
    early = issuer.token()
    errors = verify(ring, *[early] * 30)
    assert {type(each) for each in errors} == {UnavailableError}
    assert {each.retry_after for each in errors} == {4.0}
    assert len(issuer.asked) == n_asked
    given.ticks.now += 4
    assert verify(ring, early)[0].caller.name == "all:ada"
    assert len(issuer.asked) == n_asked + 2
    strangers = [SigningPair(f"s{n}").sign(issuer.claims()) for n in range(3)]
    given.ticks.now += 5
    kinds = [type(each) for each in verify(ring, strangers[0])]
    given.ticks.now += 1
    kinds += [type(each) for each in verify(ring, *strangers)]
    assert kinds == [UnauthenticatedError, *[UnavailableError] * 3]
    assert len(issuer.asked) == n_asked + 4


def test_many_tokens_that_need_a_new_key_wait_for_one_fetch(issuer):
    ring, _ = make_ring(issuer)
    tokens = [issuer.token(n=n) for n in range(80)]

    async def run():
        return await asyncio.gather(*(outcome(ring, token) for token in tokens))

    found = asyncio.run(run())
    assert len(issuer.asked) == 2
    kinds = {type(each) for each in found[:64]}
    assert kinds == {AccessEntry}
    assert {type(each) for each in found[64:]} == {OverloadedError}


def test_tokens_of_a_key_that_the_issuer_withdrew_are_refused(issuer):
    ring, given = make_ring(issuer)
    token = issuer.token()
    verify(ring, token)
    issuer.pairs = [SigningPair("second")]

    async def refresh():
        given.ticks.now += 601
        ring.refresh_if_due()
        return await outcome(ring, issuer.token())

    assert asyncio.run(refresh()).caller.name == "all:ada"
    assert ring.find(token) is None
    assert isinstance(verify(ring, token)[0], UnauthenticatedError)


def test_known_keys_outlive_an_issuer_that_is_down_for_a_day_and_no_longer(issuer):
    ring, given = make_ring(issuer)
    token = issuer.token(exp=time.time() + 10 * DAY)
    verify(ring, token)
    issuer.is_down = True
    given.ticks.now += DAY - 1
    later, stranger = issuer.token(), SigningPair("x").sign(issuer.claims())
    found = verify(ring, later, stranger)
    assert found[0].caller.name == "all:ada"
    assert isinstance(found[1], UnavailableError)  # its key may be a new one
    assert ring.find(token) is not None
    given.ticks.now += 2
    assert ring.find(token) is None
    (error,) = verify(ring, token)
    assert isinstance(error, UnavailableError)
    assert error.retry_after
    issuer.is_down = False
    given.ticks.now += 6
    assert verify(ring, token)[0].caller.name == "all:ada"


def reading(issuer, start_thread):
    """Return a ring whose keys are read by what this function starts, and its clock."""
    ticks = Clock(1000.0)
    keys = KeySet(KeySource(issuer.url), ticks, start_thread)
    return TokenRing(TokenPolicy(issuer.url, (AUDIENCE,)), keys, lambda: EVERYBODY), ticks


def test_keys_are_read_later_if_the_system_has_no_more_threads(issuer, caplog):
    failures = [RuntimeError("can't start new thread")]

    def start(work):
        if failures:
            raise failures.pop()
        work()

    ring, ticks = reading(issuer, start)

    async def run():
        ring.refresh_if_due()
        first = await outcome(ring, issuer.token())
        ticks.now += 31
        ring.refresh_if_due()
        return first, await outcome(ring, issuer.token())

    first, second = asyncio.run(run())
    assert isinstance(first, UnavailableError)
    assert second.caller.name == "all:ada"
    assert "can't start new thread" in caplog.text


def test_a_reading_that_blocks_is_replaced_and_what_it_finds_later_is_not_used(issuer):
    started = []
    ring, ticks = reading(issuer, started.append)

    async def run():
        ring.refresh_if_due()
        ticks.now += 29
        ring.refresh_if_due()
        assert len(started) == 1
        waiting = asyncio.create_task(outcome(ring, issuer.token()))
        await asyncio.sleep(0)
        ticks.now += 2
        ring.refresh_if_due()
        given_up = await waiting
        issuer.pairs = [SigningPair("second")]
        started[1]()
        found = await outcome(ring, issuer.token())
        issuer.pairs = [SigningPair("third")]
        started[0]()
        await asyncio.sleep(0.01)
        return given_up, found, await outcome(ring, issuer.token())

    given_up, found, late = asyncio.run(run())
    assert isinstance(given_up, UnavailableError)
    assert found.caller.name == "all:ada"
    assert isinstance(late, UnauthenticatedError)


def test_readings_that_block_do_not_take_any_number_of_threads(issuer):
    started = []
    ring, ticks = reading(issuer, started.append)

    async def run():
        for _ in range(30):
            ring.refresh_if_due()
            ticks.now += 31
        n_blocked = len(started)
        for work in started:
            work()
        await asyncio.sleep(0.01)
        ring.refresh_if_due()
        return n_blocked, len(started)

    assert asyncio.run(run()) == (8, 9)


def test_a_token_is_not_wrong_because_its_key_comes_late(issuer, monkeypatch):
    monkeypatch.setattr("twinforce_service.callers.tokens.key_set._LONGEST_WAIT_S", 0.01)
    ring, _ = reading(issuer, lambda _: None)
    assert isinstance(verify(ring, issuer.token())[0], UnavailableError)


def read_error(issuer, **source):
    with pytest.raises(KeySourceError) as caught:
        KeySource(issuer.url, **source).read()
    return str(caught.value).replace(issuer.url, "ISSUER")


def test_what_an_issuer_may_not_answer_is_refused_with_the_reason(issuer):
    discovery = "/.well-known/openid-configuration"
    issuer.answers[discovery] = {"issuer": "https://other", "jwks_uri": f"{issuer.url}/keys"}
    assert "expected the issuer ISSUER, got 'https://other'" in read_error(issuer)
    for url in (None, "http://example.com/keys", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        issuer.answers[discovery] = {"issuer": issuer.url, "jwks_uri": url}
        assert "expected a jwks_uri that begins with https://" in read_error(issuer)
    issuer.answers[discovery] = f"{issuer.url}/elsewhere"
    assert "302" in read_error(issuer)
    assert "/elsewhere" not in issuer.asked
    issuer.answers[discovery] = b"<html>"
    assert "Expecting value" in read_error(issuer)
    issuer.answers["/keys"] = b" " * (2**20 + 1)
    assert "at most 1048576 bytes" in read_error(issuer, jwks=f"{issuer.url}/keys")
    issuer.is_down = True
    assert "503" in read_error(issuer)


def test_the_issuer_is_asked_with_a_token_if_there_is_a_file_of_one(issuer, tmp_path):
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert KeySource(issuer.url, token_file=str(file)).read() == issuer.jwks
    assert [each["Authorization"] for each in issuer.headers] == ["Bearer secret"] * 2


def test_a_file_of_keys_is_read_again_when_it_changes(issuer, tmp_path):
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(issuer.jwks))
    ring, _ = make_ring(issuer, source=KeySource(issuer.url, str(file)))
    assert verify(ring, issuer.token())[0].caller.name == "all:ada"
    issuer.rotate("second")
    file.write_text(json.dumps(issuer.jwks))

    async def refresh():
        ring.refresh_if_due()
        return await outcome(ring, issuer.token())

    assert asyncio.run(refresh()).caller.name == "all:ada"
    assert issuer.asked == []


def changed(**members):
    jwk = SigningPair("k", members.pop("made_for", "ES256")).jwk | members
    return {name: value for name, value in jwk.items() if value is not None}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "expected a JSON object with 1 to 64 keys"),
        ({"keys": []}, "expected a JSON object with 1 to 64 keys"),
        ({"keys": [changed()] * 65}, "expected a JSON object with 1 to 64 keys"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}, "expected a public key"),
        ({"keys": [changed(use="enc")]}, "expected a public key"),
        ({"keys": [changed(key_ops=["sign"])]}, "expected a public key"),
        ({"keys": [changed(alg="HS256")]}, "expected a public key"),
        ({"keys": [changed(crv="P-384")]}, "expected a public key"),
        ({"keys": [changed(d="AA")]}, "expected a public key"),
        ({"keys": [changed(x=7)]}, "expected a public key"),
        ({"keys": [changed(x=None)]}, "expected a public key"),
        ({"keys": [7]}, "expected a public key"),
        ({"keys": [SigningPair("k", "RS256", 1024).jwk]}, "expected a public key"),
    ],
)
def test_unusable_keys_are_left_out(values, reason):
    with pytest.raises(ValueError, match=reason):
        parse_keys(values)


def test_usable_keys_beside_others_are_used():
    good = changed(alg=None, made_for="PS256")
    (key,) = parse_keys({"keys": [{"kty": "oct", "k": "AA"}, good]})
    assert key.algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


KEY_FOR_RSA = changed(made_for="PS256")


@pytest.mark.parametrize("name", ["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"])
def test_an_odd_key_leaves_the_others_usable(name):
    good = changed()
    values = [*ODD, 10**400, "A" * 5000, [[]] * 3]
    others = [changed(made_for=algorithm) for algorithm in ("ES384", "EdDSA")]
    odd = [each | {name: value} for each in (*others, KEY_FOR_RSA) for value in values]
    for each in odd:
        assert good["x"] in str([key.identity for key in parse_keys({"keys": [each, good]})])
    assert good["x"] in str([key.identity for key in parse_keys({"keys": [*odd, good]})])


def test_a_key_that_the_library_of_keys_does_not_support_leaves_the_others_usable(monkeypatch):
    rare, good = changed(made_for="EdDSA"), changed()
    algorithm = type(jwt.get_algorithm_by_name("EdDSA"))

    def from_jwk(_):
        raise UnsupportedAlgorithm("ed25519 is not supported by this version of OpenSSL")

    monkeypatch.setattr(algorithm, "from_jwk", staticmethod(from_jwk))
    (key,) = parse_keys({"keys": [rare, good]})
    assert key.algorithms == {"ES256"}


def test_a_key_that_is_listed_twice_is_usable(issuer):
    issuer.pairs *= 2
    ring, _ = make_ring(issuer)
    assert verify(ring, issuer.token())[0].caller.name == "all:ada"


def test_the_file_of_keys_keeps_entries_for_tokens_when_a_key_is_added(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": {"group": {"claims": {"groups": "x"}, "share": 2}}}))
    file.chmod(0o600)
    key = add_key(file, "alice")
    ring = KeyRing(file)
    assert [(rule.name, rule.claims, rule.share) for rule in ring.rules] == [
        ("group", {"groups": "x"}, 2.0)
    ]
    assert asyncio.run(ring.verify(key, HERE)).name == "alice"
    assert "group  tokens" in run_keys(file, "list")[1]
    before = ring.rules
    run_keys(file, "revoke", "group")
    ring.reload_if_changed()
    assert (ring.rules, before[0].name) == ((), "group")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"claims": []}, "claims: expected a JSON object, got list"),
        ({"claims": {}, "hash": "x"}, "unknown or missing: hash"),
        ({"claims": {}, "share": 0}, "share: expected a positive number"),
    ],
)
def test_wrong_entries_for_tokens_are_refused(tmp_path, entry, reason):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": {"x": entry}}))
    file.chmod(0o600)
    with pytest.raises(KeyFileError, match=reason):
        read_keys(file)


def test_memory_for_verified_tokens_is_bounded(issuer, monkeypatch):
    monkeypatch.setattr("twinforce_service.callers.tokens.token_ring._MOST_REMEMBERED", 5000)
    ring, _ = make_ring(issuer)
    tokens = [issuer.token(x="y" * 1000, n=n) for n in range(5)]
    verify(ring, *tokens)
    assert [ring.find(token) is not None for token in tokens] == [False, False, True, True, True]


def test_a_stream_goes_on_without_room_for_its_token_and_ends_when_that_is_revoked(
    issuer, monkeypatch
):
    monkeypatch.setattr("twinforce_service.callers.tokens.token_ring._MOST_REMEMBERED", 3000)
    ring, given = make_ring(issuer)
    tokens = [issuer.token(x="y" * 1000, n=n) for n in range(5)]

    async def run():
        await KeyCheck(None, ring).verify(f"Bearer {tokens[0]}", HERE)
        for token in tokens[1:]:
            await outcome(ring, token)
        assert ring.find(tokens[1]) is None
        check_again.get()()
        assert caller.get().name == "all:ada"
        issuer.pairs = [SigningPair("second")]
        given.ticks.now += 601
        ring.refresh_if_due()
        await outcome(ring, issuer.token())
        with pytest.raises(UnauthenticatedError, match="the key was revoked"):
            check_again.get()()

    asyncio.run(run())
    gc.collect()
    assert ring.find(tokens[0]) is None


@pytest.mark.parametrize("n_kept", [0, 1])
def test_streams_that_open_at_once_with_one_token_do_not_depend_on_each_other(
    issuer, monkeypatch, n_kept
):
    monkeypatch.setattr("twinforce_service.callers.tokens.token_ring._MOST_REMEMBERED", 3000)
    ring, _ = make_ring(issuer)
    tokens = [issuer.token(x="y" * 1000, n=n) for n in range(5)]

    async def open_stream():
        await KeyCheck(None, ring).verify(f"Bearer {tokens[0]}", HERE)
        return check_again.get()

    async def run():
        streams = await asyncio.gather(open_stream(), open_stream())
        kept = streams.pop(n_kept)
        streams.clear()  # the other one ends
        gc.collect()
        for token in tokens[1:]:
            await outcome(ring, token)
        assert ring.find(tokens[1]) is None
        kept()
        assert caller.get().name == "all:ada"

    asyncio.run(run())
