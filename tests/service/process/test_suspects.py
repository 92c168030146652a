"""Tests of systems that crash engines: they are refused, and nobody else hears of them."""

import logging
import threading
from functools import partial

import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import ARGON, NEON
from tests.service.conftest import PATIENCE, running
from tests.service.process.test_outliving import md, n_restarts
from tests.service.process.test_restarts import Clock
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client, FatalSystemError, Integrator, Start
from twinforce_dynamics.requests import PropagateRequest
from twinforce_proto import UnavailableError
from twinforce_service.embedded import run_in_thread
from twinforce_service.engine.runs import Run
from twinforce_service.process.suspects import Suspects, fingerprint
from twinforce_service.scheduling.request import JacobianRequest, Request

ENERGY = frozenset({"energy"})
BAD, GOOD, OTHER = (molecule(4, seed=seed) for seed in range(3))


def ask(system, **values):
    return Request(**{"model": "lj", "system": system, "outputs": ENERGY} | values)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def suspects(clock):
    return Suspects(clock)


def test_the_suspects_of_a_batch_are_evaluated_alone_until_they_are_answered(suspects):
    assert not suspects
    assert not suspects.note_crash([ask(BAD), ask(GOOD)])
    assert suspects
    assert suspects.is_suspect(ask(GOOD))
    assert not suspects.is_suspect(ask(OTHER))
    suspects.clear(ask(GOOD))
    assert not suspects.is_suspect(ask(GOOD))
    assert suspects.is_suspect(ask(BAD))


def test_only_a_system_that_ended_two_engines_alone_is_refused(suspects, clock):
    suspects.note_crash([ask(BAD), ask(GOOD)])
    suspects.note_crash([ask(BAD), ask(GOOD)])
    assert not suspects.note_crash([ask(BAD)])
    assert suspects.is_suspect(ask(BAD))
    assert suspects.note_crash([ask(BAD)])
    with pytest.raises(FatalSystemError, match="exited 2 times") as caught:
        suspects.is_suspect(ask(BAD))
    assert caught.value.retry_after == pytest.approx(600)
    assert suspects.is_suspect(ask(GOOD))
    clock.now += 600
    assert not suspects.is_suspect(ask(BAD))
    assert not suspects


def test_suspects_that_do_not_come_again_are_forgotten(suspects, clock):
    suspects.note_crash([ask(BAD), ask(GOOD)])
    clock.now += 121
    assert not suspects.is_suspect(ask(BAD))
    assert not suspects


def test_an_engine_that_crashes_on_everything_is_to_blame_itself(suspects):
    blames_the_system = []
    for seed in range(12):
        system = ask(molecule(5, seed=seed))
        suspects.note_crash([system])
        blames_the_system.append(suspects.note_crash([system]))
    assert blames_the_system == [True] * 8 + [False] * 4


def run_of(system, n_steps=10, model="lj"):
    begin = Start(system, np.zeros((len(system), 3)), Integrator(inner_steps=2), random=0)
    return Run(PropagateRequest(model, begin, n_steps), lambda *_: None, credit=2)


def test_a_fingerprint_depends_on_the_content_and_not_on_the_request():
    same = ask(BAD, request_id="other", urgency=0, deadline=1.0, system_index=3)
    assert fingerprint(ask(BAD)) == fingerprint(same)
    assert fingerprint(run_of(BAD)) == fingerprint(run_of(BAD))
    different = [
        ask(BAD),
        ask(GOOD),
        ask(BAD, model="springs"),
        ask(BAD, outputs=frozenset({"direct_forces"})),
        ask(crystal(8)),
        JacobianRequest("lj", BAD, ENERGY, rows=range(3)),
        run_of(BAD),
        run_of(GOOD),
        run_of(BAD, n_steps=12),
        run_of(BAD, model="springs"),
    ]
    assert len({fingerprint(each) for each in different}) == len(different)


def test_the_companions_of_a_system_that_ends_engines_are_answered(make_spec):
    def outcome(engine, *requests):
        """Submit together, and return the first error or the energies."""
        engine.wait_until_ready(PATIENCE)
        engine.submit(requests)
        futures = [each.future for each in requests]
        failures = [future.exception(PATIENCE) for future in futures]
        return next(filter(None, failures), None) or [each.result().energy for each in futures]

    good, bad = (
        partial(ask, molecule(3, element=element), model="troubled") for element in (ARGON, NEON)
    )
    with running(make_spec()) as engine:
        (expected,) = outcome(engine, good())
        for _ in range(3):  # once in one batch, and then each alone, twice
            assert isinstance(outcome(engine, good(), bad()), UnavailableError)
        assert outcome(engine, good()) == [expected]
        with pytest.raises(FatalSystemError, match=r"^systems\[1\]: .* exited 2 times"):
            outcome(engine, good(), bad(system_index=1))
        assert outcome(engine, good()) == [expected]


@pytest.fixture(scope="module")
def server(troubled_model):
    settings = free_ports(model={"troubled": str(troubled_model[0])}, device="cpu")
    with run_in_thread(settings) as server:
        yield server


def expect_refusal(client, call):
    with pytest.raises(FatalSystemError, match="exited 2 times"):
        call(client)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_only_the_caller_of_a_system_that_ends_the_engine_hears_of_it(server, transport, caplog):
    seed = ["grpc", "rest"].index(transport)
    poison = molecule(3, element=NEON, seed=seed)
    url = server.grpc_url if transport == "grpc" else server.rest_url
    before = n_restarts(server)
    with caplog.at_level(logging.ERROR), Client(url, timeout=PATIENCE) as client:
        others: list[float] = []
        innocent = threading.Thread(
            target=lambda: others.append(client.predict(molecule(7, seed=seed)).energy)
        )
        guilty = threading.Thread(target=expect_refusal, args=[client, predict(poison)])
        innocent.start()
        guilty.start()
        with client.stream() as stream:
            disturbed = md(stream, crystal(27), 20)
            for thread in (innocent, guilty):
                thread.join(PATIENCE)
            calm = md(stream, crystal(27), 20)
        np.testing.assert_array_equal(disturbed, calm)
        assert others == [client.predict(molecule(7, seed=seed)).energy]
        n_after = n_restarts(server)
        assert before + 2 <= n_after <= before + 3  # the first one may have had company
        expect_refusal(client, predict(poison))
        assert n_restarts(server) == n_after
    assert "it is refused now" in caplog.text


def predict(system):
    return lambda client: client.predict(system)


def test_a_run_that_ends_the_engine_is_refused_too(server):
    begin = Start(molecule(3, element=NEON, seed=9), np.zeros((3, 3)), Integrator(inner_steps=2))
    with Client(server.grpc_url, timeout=PATIENCE) as client:
        expect_refusal(client, lambda client: list(client.propagate(begin, 10, 2)))
        n_after = n_restarts(server)
        expect_refusal(client, lambda client: list(client.propagate(begin, 10, 2)))
        assert n_restarts(server) == n_after
        wait_until(lambda: client.predict(crystal(27)))
