import asyncio
import resource
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.service.callers.making import add_key, run_keys
from twinforce_proto import OverloadedError, UnauthenticatedError
from twinforce_service import rotation
from twinforce_service.callers import key_ring
from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.key_file import KeyFileError
from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.callers.key_text import SecretHash, new_key

HERE = "192.0.2.1"


class Clock:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def counted(monkeypatch):
    """Return the list of hashes that were computed."""
    computed = []
    original = SecretHash.matches

    def matches(self, secret):
        computed.append(self)
        return original(self, secret)

    monkeypatch.setattr(SecretHash, "matches", matches)
    return computed


def verify(ring, *texts, address=HERE):
    """Return what each of these keys, all given at once, is answered with."""

    async def run():
        asked = (ring.verify(text, address) for text in texts)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


def test_a_key_is_hashed_slowly_only_once(file, counted):
    text = add_key(file, "alice")
    ring = KeyRing(file)
    assert ring.find(text) is None
    assert [key.name for key in verify(ring, *[text] * 20)] == ["alice"] * 20
    assert [key.name for key in verify(ring, text)] == ["alice"]
    assert ring.find(text).name == "alice"
    assert len(counted) == 1


def test_an_unknown_id_costs_as_many_hashes_as_a_wrong_secret(file, counted):
    text = add_key(file, "alice")
    ring = KeyRing(file)
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    unknown = new_key()[1]
    for each in (wrong, unknown):
        (error,) = verify(ring, each)
        assert isinstance(error, UnauthenticatedError)
        assert str(error) == (
            "expected the header 'Authorization: Bearer KEY' with a key of this service, got one "
            "that is unknown or revoked"
        )
    assert len(counted) == 2
    assert (counted[0].log_n, counted[0].r) == (counted[1].log_n, counted[1].r)


@pytest.mark.parametrize("text", ["", "tf_", "x" * 100_000, "tf_0123456789_é" + "a" * 42])
def test_what_is_no_key_is_refused_without_a_hash(file, counted, text):
    add_key(file, "alice")
    (error,) = verify(KeyRing(file), text)
    assert isinstance(error, UnauthenticatedError)
    assert len(str(error)) < 200
    assert not counted


def test_an_address_that_fails_is_slowed_down_and_others_are_not(file, counted):
    text = add_key(file, "alice")
    clock = Clock()
    ring = KeyRing(file, FailedAttempts(clock))
    errors = [verify(ring, new_key()[1])[0] for _ in range(12)]
    assert [type(error) for error in errors] == [UnauthenticatedError] * 10 + [OverloadedError] * 2
    assert errors[-1].retry_after == pytest.approx(6.0)
    n_hashes = len(counted)
    assert isinstance(verify(ring, text)[0], OverloadedError)
    assert len(counted) == n_hashes
    assert verify(ring, text, address="192.0.2.2")[0].name == "alice"
    assert verify(ring, text)[0].name == "alice"  # as it was verified elsewhere
    clock.now += 6.0
    after = [type(verify(ring, new_key()[1])[0]) for _ in range(2)]
    assert after == [UnauthenticatedError, OverloadedError]


def test_addresses_of_one_ipv6_network_count_as_one_and_memory_is_bounded():
    attempts = FailedAttempts(Clock())
    for number in range(10):
        attempts.note(f"2001:db8::{number:x}")
    assert attempts.wait("2001:db8::ffff") > 0
    assert attempts.wait("2001:db8:0:1::1") == 0
    for number in range(10):
        attempts.note("::ffff:192.0.2.1" if number % 2 else HERE)
    assert attempts.wait(HERE) > 0
    for number in range(20_000):
        attempts.note(f"10.0.{number // 256}.{number % 256}")
    assert len(attempts._full_at) == 10_000
    assert attempts.wait("2001:db8::1") == 0


def test_only_so_many_keys_wait_for_their_hash(file, monkeypatch):
    add_key(file, "alice")
    ring = KeyRing(file)
    gate = threading.Event()
    monkeypatch.setattr(SecretHash, "matches", lambda *_: gate.wait(60.0) and False)

    async def run():
        texts = [new_key()[1] for _ in range(key_ring._MOST_WAITING + 1)]
        asked = [asyncio.ensure_future(ring.verify(text, str(n))) for n, text in enumerate(texts)]
        await asyncio.wait([asked[-1]])
        gate.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    errors = asyncio.run(run())
    assert [type(error) for error in errors[:-1]] == [UnauthenticatedError] * (len(errors) - 1)
    assert isinstance(errors[-1], OverloadedError)


def test_a_caller_who_goes_away_does_not_take_the_verification_along(file, monkeypatch):
    text = add_key(file, "alice")
    ring = KeyRing(file)
    gate, original = threading.Event(), SecretHash.matches
    monkeypatch.setattr(SecretHash, "matches", lambda *given: gate.wait(60.0) and original(*given))

    async def run():
        gone, stays = (asyncio.ensure_future(ring.verify(text, HERE)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.set()
        return await stays

    assert asyncio.run(run()).name == "alice"


def test_an_expired_key_says_so_and_does_not_count_as_an_attempt(file):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    text = add_key(file, "alice", "--expires", "2030-01-01T00:00:01Z")
    ring = KeyRing(file, clock=lambda: now)
    assert verify(ring, text)[0].name == "alice"
    now += timedelta(seconds=1)
    for _ in range(20):
        (error,) = verify(ring, text)
        assert isinstance(error, UnauthenticatedError)
        assert "the key 'alice' expired at 2030-01-01T00:00:01+00:00" in str(error)


def test_a_changed_file_is_read_again_and_what_is_unchanged_stays_verified(file, counted):
    alice, bob = add_key(file, "alice"), add_key(file, "bob")
    ring = KeyRing(file)
    verify(ring, alice, bob)
    run_keys(file, "revoke", "alice")
    text = file.read_text().replace('"predict",', '"predict", "metrics",')
    file.write_text(text)
    ring.reload_if_changed()
    assert ring.find(alice) is None
    assert "metrics" in ring.find(bob).scopes
    assert isinstance(verify(ring, alice)[0], UnauthenticatedError)
    assert len(counted) == 3
    again = add_key(file, "alice")
    ring.reload_if_changed()
    assert verify(ring, again)[0].name == "alice"
    assert isinstance(verify(ring, alice)[0], UnauthenticatedError)


def test_a_key_that_is_revoked_while_it_is_verified_is_refused(file, monkeypatch):
    text = add_key(file, "alice")
    ring = KeyRing(file)
    original = SecretHash.matches

    def matches(self, secret):
        is_right = original(self, secret)
        run_keys(file, "revoke", "alice")
        ring.reload_if_changed()
        return is_right

    monkeypatch.setattr(SecretHash, "matches", matches)
    assert isinstance(verify(ring, text)[0], UnauthenticatedError)
    assert ring.find(text) is None


@pytest.mark.parametrize("damage", ["not JSON", None])
def test_a_bad_new_file_keeps_the_old_keys_and_is_logged(file, caplog, damage):
    text = add_key(file, "alice")
    ring = KeyRing(file)
    good = file.read_text()
    file.unlink() if damage is None else file.write_text(damage)
    ring.reload_if_changed()
    ring.reload_if_changed()
    assert verify(ring, text)[0].name == "alice"
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
    assert "the keys stay as they were" in caplog.text
    file.write_text(good)
    file.chmod(0o600)
    run_keys(file, "revoke", "alice")
    ring.reload_if_changed()
    assert ring.find(text) is None


def test_a_mounted_secret_is_followed_through_its_links(tmp_path):
    """Kubernetes mounts a link to a link to a folder, and replaces the latter."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    old = add_key(tmp_path / "first" / "keys.json", "alice")
    new = add_key(tmp_path / "second" / "keys.json", "alice")
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "keys.json").symlink_to("data/keys.json")
    ring = KeyRing(tmp_path / "keys.json")
    assert verify(ring, old)[0].name == "alice"
    (tmp_path / "newer").symlink_to("second")
    (tmp_path / "newer").replace(tmp_path / "data")
    ring.reload_if_changed()
    assert ring.find(old) is None
    assert verify(ring, new)[0].name == "alice"


def test_keys_that_could_not_be_read_for_a_passing_reason_are_read_later(file, monkeypatch, caplog):
    monkeypatch.setattr(rotation, "_RETRY_S", 0.0)
    text = add_key(file, "alice")
    ring = KeyRing(file)
    verify(ring, text)
    run_keys(file, "revoke", "alice")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        ring.reload_if_changed()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "too many open files" in caplog.text
    assert ring.find(text) is not None
    ring.reload_if_changed()
    assert ring.find(text) is None


def test_files_count_as_changed_a_while_after_a_failure(tmp_path):
    clock = Clock()
    files = rotation.WatchedFiles([tmp_path / "keys"], clock)
    assert not files.have_changed()
    files.note_failure()
    clock.now += 29
    assert not files.have_changed()
    clock.now += 2
    assert [files.have_changed() for _ in range(3)] == [True, False, False]


def test_a_file_of_keys_that_is_nested_too_deeply_is_refused(file):
    file.write_text('{"keys": ' + "[" * 100_000)
    file.chmod(0o600)
    with pytest.raises(KeyFileError, match="not JSON"):
        KeyRing(file)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_key_that_cannot_be_verified_now_is_not_wrong(file, monkeypatch, error):
    text = add_key(file, "alice")
    ring = KeyRing(file)

    def matches(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(SecretHash, "matches", matches)
        found = verify(ring, *[text] * 20)
    assert {type(each) for each in found} == {OverloadedError}
    assert {each.retry_after for each in found} == {1.0}
    assert verify(ring, text)[0].name == "alice"
