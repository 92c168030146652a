"""Tests of the limits of callers, with a clock that stands still."""

from contextlib import ExitStack

import pytest

from twinforce_proto import InvalidRequestError, OverloadedError
from twinforce_service.callers.allowances import Allowances
from twinforce_service.callers.caller import Caller
from twinforce_service.callers.limits import CallerLimits
from twinforce_service.transports.rest.rate_limits import rate_limit_headers

ADA, BOB = Caller("ada"), Caller("bob")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def allowances(clock, **limits):
    return Allowances(CallerLimits(**limits), clock)


def refusal(allowed, caller=ADA, n_atoms=1):
    with pytest.raises(OverloadedError) as refused, allowed.request(caller, n_atoms):
        pass
    assert refused.value.retry_after > 0
    return refused.value


def is_allowed(allowed, caller=ADA, n_atoms=1):
    try:
        with allowed.request(caller, n_atoms):
            return True
    except OverloadedError:
        return False


def test_a_caller_without_limits_is_never_refused(clock):
    allowed = Allowances(clock=clock)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(allowed.request(ADA, 10**9))
            stack.enter_context(allowed.run(ADA, 10**9, 10**9, "n_steps"))
    assert allowed.left(ADA) == []


def test_requests_in_flight_are_limited_for_each_caller_alone(clock):
    allowed = allowances(clock, max_requests=2)
    with allowed.request(ADA, 1):
        with allowed.request(ADA, 1):
            error = refusal(allowed)
            assert error.field == "max_requests"
            assert str(error) == "max_requests: ada has reached its limit of 2; try again in 1 s"
            assert is_allowed(allowed, BOB)
        assert is_allowed(allowed)


def test_the_advice_to_come_back_follows_the_time_that_requests_take(clock):
    allowed = allowances(clock, max_requests=1)
    for _ in range(50):
        with allowed.request(ADA, 1):
            clock.now += 7.0
    with allowed.request(ADA, 1):
        assert refusal(allowed).retry_after == pytest.approx(7.0, rel=0.01)


def test_atoms_in_flight_are_limited_unless_a_single_request_has_more(clock):
    allowed = allowances(clock, max_atoms=100)
    with allowed.request(ADA, 500):
        assert refusal(allowed).field == "max_atoms"
    with allowed.request(ADA, 60):
        assert is_allowed(allowed, n_atoms=40)
        assert not is_allowed(allowed, n_atoms=41)


def test_a_failed_request_is_no_longer_in_flight(clock):
    allowed = allowances(clock, max_requests=1)
    with pytest.raises(ZeroDivisionError), allowed.request(ADA, 1):
        raise ZeroDivisionError
    assert is_allowed(allowed)


def test_atoms_per_second_are_an_average_that_a_large_request_may_exceed_once(clock):
    allowed = allowances(clock, atoms_per_second=100)
    assert is_allowed(allowed, n_atoms=350)
    error = refusal(allowed)
    assert (error.field, error.retry_after) == ("atoms_per_second", pytest.approx(2.5))
    clock.now += 2.4
    assert not is_allowed(allowed)
    clock.now += 0.2
    assert is_allowed(allowed)
    clock.now += 1e6  # nobody saves up more than a second
    assert is_allowed(allowed, n_atoms=200)
    assert refusal(allowed).retry_after == pytest.approx(1.0)


def test_a_day_has_so_many_steps_and_those_not_taken_are_given_back(clock):
    allowed = allowances(clock, steps_per_day=86_400)
    with allowed.run(ADA, 10, 80_000, "n_steps") as give_back:
        with pytest.raises(OverloadedError) as refused, allowed.run(ADA, 1, 10_000, "n_steps"):
            pass
        assert refused.value.field == "steps_per_day"
        assert refused.value.retry_after == pytest.approx(3600)
        give_back(50_000)
    with allowed.run(ADA, 10, 56_400, "n_steps"):
        pass
    with (
        pytest.raises(InvalidRequestError, match="n_steps: expected at most 86400, the steps_per"),
        allowed.run(BOB, 10, 86_401, "n_steps"),
    ):
        pass


def test_runs_are_limited_and_count_as_requests(clock):
    allowed = allowances(clock, max_runs=1, max_requests=2)
    with allowed.run(ADA, 1, 1, "n_steps"):
        with pytest.raises(OverloadedError, match="max_runs"), allowed.run(ADA, 1, 1, "n_steps"):
            pass
        with allowed.request(ADA, 1):
            assert refusal(allowed).field == "max_requests"


def test_the_limits_of_a_key_replace_those_of_the_settings(clock):
    allowed = allowances(clock, max_requests=1)
    ample = Caller("ada", limits=CallerLimits(max_requests=2))
    free = Caller("bob", limits=CallerLimits())
    with allowed.request(ample, 1), allowed.request(free, 1):
        assert is_allowed(allowed, ample)
        assert is_allowed(allowed, free)


def test_limits_that_change_while_a_request_is_in_flight_still_count_it(clock):
    allowed = Allowances(clock=clock)
    before, after = (Caller("ada", limits=CallerLimits(max_requests=n)) for n in (2, 1))
    with allowed.request(before, 1):
        assert not is_allowed(allowed, after)
    assert is_allowed(allowed, after)


def test_many_callers_are_forgotten_once_there_is_nothing_to_remember(clock):
    allowed = allowances(clock, atoms_per_second=1)
    for number in range(20_000):
        assert is_allowed(allowed, Caller(str(number)), n_atoms=2)
        clock.now += 1e-3
    assert len(allowed._states) < 5000
    assert not is_allowed(allowed, Caller("19999"))


def test_headers_tell_the_limits_and_what_is_left_of_them(clock):
    allowed = allowances(clock, max_requests=3, atoms_per_second=100, steps_per_day=1000)
    with allowed.request(ADA, 150):
        headers = rate_limit_headers(allowed.left(ADA))
    assert headers == {
        "RateLimit-Policy": '"max_requests";q=3;qu="concurrent-requests", '
        '"atoms_per_second";q=100;w=1, "steps_per_day";q=1000;w=86400',
        "RateLimit": '"max_requests";r=2;t=1, "atoms_per_second";r=0;t=2, '
        '"steps_per_day";r=1000;t=0',
    }
    assert rate_limit_headers([]) == {}


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_must_be_positive(value):
    with pytest.raises(ValueError, match="max_atoms: expected a positive number"):
        CallerLimits(max_atoms=value)
