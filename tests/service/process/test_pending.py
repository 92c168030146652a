"""What was sent to an engine process: the places of callers, changed by several threads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.scheduling.test_fairness import request
from twinforce_proto import UnavailableError
from twinforce_service.callers.caller import Caller
from twinforce_service.process.pending import Pending
from twinforce_service.scheduling.places import QueuePlaces
from twinforce_service.scheduling.request import Limits

LIMITS = Limits(max_waiting=4)


def test_a_caller_holds_places_until_its_requests_are_over():
    pending = Pending()
    eve, ada = Caller("eve"), Caller("ada")
    sent = [(pending.next_number(), request(eve)) for _ in range(4)]
    assert pending.add(sent) == pending.n_atoms == 4
    assert not pending.may_enter([request(eve)], 4, 4, LIMITS)
    assert pending.may_enter([request(ada)] * 2, 4, 4, LIMITS)
    assert not pending.may_enter([request(ada)] * 3, 4, 4, LIMITS)
    for number, _ in sent[1:]:
        assert pending.pop(number) is not None
    assert pending.may_enter([request(eve)], 4, 4, LIMITS)
    pending.fail_all(UnavailableError("it has ended"))
    assert isinstance(sent[0][1].future.exception(), UnavailableError)
    assert pending.n_atoms == 0


@pytest.fixture
def switching():
    """Let threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching")
def test_places_do_not_change_while_they_are_compared(monkeypatch):
    """The places are used by one thread at a time."""
    users = []

    def alone(method):
        def call(*arguments):
            users.append(method)
            assert len(users) == 1
            try:
                return method(*arguments)
            finally:
                users.pop()

        return call

    for name in ("enter", "leave", "may_enter"):
        monkeypatch.setattr(QueuePlaces, name, alone(getattr(QueuePlaces, name)))
    pending = Pending()

    def use(caller):
        for _ in range(300):
            each = request(caller)
            pending.may_enter([each], 9, 9, LIMITS)
            pending.add([(number := pending.next_number(), each)])
            pending.pop(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, map(Caller, "abcd")))
    assert pending.n_atoms == 0


@pytest.mark.usefixtures("switching")
def test_everything_can_end_while_requests_come_and_go():
    pending = Pending()

    def use(_):
        for _ in range(200):
            pending.add([(pending.next_number(), request(Caller("eve")))])
            pending.fail_all(UnavailableError("it has ended"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert pending.n_atoms == 0
