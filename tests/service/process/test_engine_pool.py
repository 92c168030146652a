"""Tests of a pool of two engines: they share requests, and take over for each other."""

import os
import signal
from contextlib import ExitStack

import pytest

from tests.potentials import ARGON
from tests.service.conftest import PATIENCE, running
from tests.service.troubled import HELIUM
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_proto import (
    ModelLoadError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
)
from twinforce_service.process.groups.engine_pool import EnginePool
from twinforce_service.process.process_engine import ProcessEngine
from twinforce_service.scheduling.request import Limits, Request, Walker

# Number of atoms of a system that no other test uses.
LAST = 77


class Pair:
    """Two engines in a pool, and the number of atoms of each batch of each engine."""

    def __init__(self, stack, spec):
        self.batches = [], []
        self.engines = [
            stack.enter_context(running(spec, on_batch=lambda r, d=done: d.append(r.n_atoms)))
            for done in self.batches
        ]
        self.pool = EnginePool(self.engines)

    def drop_reports(self):
        """Drop all reports; they may arrive after the answers, so wait for one of a last batch."""
        for engine, done in zip(self.engines, self.batches, strict=True):
            evaluate(engine, request(LAST))
            wait_until(lambda done=done: done and done[-1] == LAST)
            done.clear()


@pytest.fixture(scope="module")
def shared(make_spec):
    with ExitStack() as stack:
        yield Pair(stack, make_spec(limits=Limits(max_waiting=3)))


@pytest.fixture
def pair(shared):
    shared.pool.wait_until_ready(PATIENCE)
    shared.drop_reports()
    return shared


def request(n_atoms=3, element=ARGON, **values):
    system = molecule(n_atoms, element=element)
    return Request("troubled", system, frozenset({"energy"}), **values)


def evaluate(pool, *requests):
    pool.submit(requests)
    return [each.future.result(PATIENCE).energy for each in requests]


def test_the_models_of_a_pool_are_those_of_its_engines(pair):
    assert pair.pool.models == pair.engines[0].models
    assert (pair.pool.is_ready, pair.pool.is_alive) == (True, True)
    with pytest.raises(UnknownModelError):
        pair.pool.find("ice")


def test_requests_go_to_the_engine_with_the_fewest_atoms(pair, gate):
    with gate.closed():
        requests = [request(n, HELIUM) for n in (9, 2, 3, 5)]
        pair.pool.submit(requests)
        assert [engine.n_pending_atoms for engine in pair.engines] == [9, 10]
        requests.append(request(4, HELIUM))
        pair.pool.submit(requests[-1:])
        assert [engine.n_pending_atoms for engine in pair.engines] == [13, 10]
    for each in requests:
        each.future.result(PATIENCE)


def test_walkers_are_spread_over_the_engines_and_stay(pair):
    big, small, third = Walker(), Walker(), Walker()
    for _ in range(3):
        evaluate(pair.pool, request(8, walker=big))
        evaluate(pair.pool, request(3, walker=small))
        evaluate(pair.pool, request(4, walker=third))
    wait_until(lambda: [len(done) for done in pair.batches] == [3, 6])
    assert pair.batches == ([8, 8, 8], [3, 4, 3, 4, 3, 4])


def test_a_call_is_accepted_as_a_whole_or_not_at_all(pair, gate):
    bad = [request(), request(), request(element=8)]
    with pytest.raises(UnsupportedElementError):
        pair.pool.submit(bad)
    with gate.closed():
        held = [request(1, HELIUM), request(1, HELIUM)]
        pair.pool.submit(held)
        wait_until(lambda: pair.pool.n_waiting == 0)
        waiting = [request(n) for n in (3, 1, 1, 1)]
        pair.pool.submit(waiting)
        assert [engine.n_waiting for engine in pair.engines] == [1, 3]
        too_many = [request(2), request(1)]  # the first engine has room for its share
        with pytest.raises(OverloadedError):
            pair.pool.submit(too_many)
        assert [engine.n_pending_atoms for engine in pair.engines] == [4, 4]
    for each in (*held, *waiting):
        each.future.result(PATIENCE)


def test_each_engine_takes_over_for_the_other(pair, gate):
    walkers = [Walker(), Walker()]
    for walker in walkers:
        evaluate(pair.pool, request(5, walker=walker))
    with gate.starts_held():
        os.kill(pair.engines[0].pid, signal.SIGKILL)
        wait_until(lambda: not pair.engines[0].is_ready)
        pair.batches[0].clear()
        assert (pair.pool.is_ready, pair.pool.is_alive) == (True, True)
        for walker in (*walkers, None):
            evaluate(pair.pool, request(5, walker=walker))
        os.kill(pair.engines[1].pid, signal.SIGKILL)
        wait_until(lambda: not pair.pool.is_ready)
        assert pair.pool.is_alive
        with pytest.raises(UnavailableError, match="being restarted"):
            pair.pool.submit([request()])
        assert pair.batches[0] == []
    pair.pool.wait_until_ready(PATIENCE)
    evaluate(pair.pool, request(), request())


def test_a_pool_fails_to_start_if_one_engine_does(make_spec):
    broken = ProcessEngine(make_spec(models={"mine": "/nowhere"}))
    with running(make_spec()) as good:
        pool = EnginePool([good, broken])
        assert not pool.is_ready
        broken.start()
        with pytest.raises(ModelLoadError, match="nowhere"):
            pool.wait_until_ready(PATIENCE)
        assert not pool.is_alive
        pool.stop(PATIENCE)
        assert good.pid is None
