"""The files of keys and certificates are followed, whatever happens to one of them."""

import asyncio
import contextlib
from threading import Thread

import pytest

from tests.service.callers.issuer import AUDIENCE, issuing
from tests.service.callers.making import add_key, run_keys
from twinforce_proto import UnauthenticatedError
from twinforce_service import access
from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.context import check_again
from twinforce_service.settings import Settings

HERE = "192.0.2.1"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(access, "_INTERVAL_S", 0.005)


def test_keys_are_revoked_although_the_issuer_cannot_be_asked(tmp_path, monkeypatch, caplog):
    file = tmp_path / "keys.json"
    key = add_key(file, "alice")

    def start(thread):
        if thread.name == "twinforce-issuer":
            raise RuntimeError("can't start new thread")
        original(thread)

    original = Thread.start
    monkeypatch.setattr(Thread, "start", start)
    with issuing() as issuer:
        given = Settings(
            keys=str(file), oidc_issuer=issuer.url, oidc_audience=AUDIENCE, _cli_parse_args=False
        )
        asyncio.run(revoked(access.AccessControl(given), file, key))
    assert "can't start new thread" in caplog.text


def test_keys_are_followed_although_a_look_at_them_failed_in_a_way_nobody_thought_of(
    tmp_path, monkeypatch, caplog
):
    file = tmp_path / "keys.json"
    key = add_key(file, "alice")
    faults = [ZeroDivisionError("unheard of")] * 3
    original = KeyRing.reload_if_changed

    def reload(ring):
        if faults:
            raise faults.pop()
        original(ring)

    monkeypatch.setattr(KeyRing, "reload_if_changed", reload)
    given = Settings(keys=str(file), _cli_parse_args=False)
    asyncio.run(revoked(access.AccessControl(given), file, key))
    assert caplog.text.count("the keys cannot be kept up to date") == 1


async def revoked(control, file, key):
    """Return once a key that is revoked is refused."""
    following = asyncio.create_task(control.follow_files())
    await control.key_check.verify(f"Bearer {key}", HERE)
    check_again.get()()
    await asyncio.sleep(0.05)
    run_keys(file, "revoke", "alice")
    async with asyncio.timeout(20):
        with contextlib.suppress(UnauthenticatedError):
            while True:
                check_again.get()()
                await asyncio.sleep(0.005)
    following.cancel()
