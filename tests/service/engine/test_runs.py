"""Tests of the runs of an engine: updates, credit, shared batches and ends."""

import os
import signal
import threading
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from tests.clients.serving import serve
from tests.potentials import ARGON, Gated, Soft, loaded
from tests.service.conftest import PATIENCE, running
from tests.service.troubled import HELIUM
from tests.systems import crystal
from tests.waiting import wait_until
from twinforce import Client
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Integrator, Start
from twinforce_proto import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    PredictionError,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
)
from twinforce_service.engine.loading import load_models
from twinforce_service.engine.runs import Run
from twinforce_service.engine.thread_engine import ThreadEngine
from twinforce_service.process.groups.engine_pool import EnginePool
from twinforce_service.scheduling.request import Limits, Request

MODEL = "troubled"
KINDS = ["thread", "process"]
# Number of atoms of a system that no other test uses.
LAST = 77


class RecordedRun:
    """A run, and the updates that it has sent so far."""

    def __init__(self, wanted, credit=1_000_000, **values):
        self.updates = []
        self.run = Run(wanted, self._note, credit, **values)

    def _note(self, update, is_last):
        self.updates.append(update)
        self.has_last = is_last

    @property
    def steps(self):
        return [each.step for each in self.updates]

    def start_run(self, engine):
        self.add_credit = engine.start_run(self.run)
        return self

    def result(self):
        self.run.future.result(PATIENCE)
        assert self.has_last
        return self.updates


def start(n_atoms=8, seed=0, element=ARGON, **how):
    generator = np.random.default_rng(seed)
    system = crystal(n_atoms, seed, element)
    integrator = Integrator(**{"force_kind": "conservative"} | how)
    return Start(system, 0.01 * generator.normal(size=(n_atoms, 3)), integrator, random=seed)


def run(n_steps, interval=1, origin=None, model=MODEL, **values):
    return PropagateRequest(model, origin or start(**values), n_steps, interval)


def finish_another_run(engine):
    """Complete a short run; the engine has then handled everything that came before."""
    assert RecordedRun(run(3)).start_run(engine).result()[-1].step == 3


class BothEngines:
    """Both kinds of engines, with the same models and limits, and their reports."""

    def __init__(self, stack, spec):
        self.reports = {kind: [] for kind in KINDS}
        thread = ThreadEngine(
            partial(load_models, spec), spec.limits, on_batch=self.reports["thread"].append
        )
        thread.start()
        stack.callback(thread.stop, PATIENCE)
        thread.wait_until_ready(PATIENCE)
        process = stack.enter_context(running(spec, on_batch=self.reports["process"].append))
        self.engines = {"thread": thread, "process": process}


@pytest.fixture(scope="module")
def both(make_spec):
    limits = Limits(max_atoms_per_system=300, max_waiting=8, max_hold=0.0)
    with ExitStack() as stack:
        yield BothEngines(stack, make_spec(limits=limits))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def engine(both, kind):
    engine = both.engines[kind]
    engine.wait_until_ready(PATIENCE)
    return engine


@pytest.fixture
def reports(both, kind, engine):
    """Return reports from now on; they may arrive after the answers, so wait for a last one."""
    reports = both.reports[kind]
    last = Request(MODEL, crystal(LAST), frozenset({"energy"}))
    engine.submit([last])
    last.future.result(PATIENCE)
    wait_until(lambda: reports and reports[-1].n_atoms == LAST)
    reports.clear()
    return reports


def test_a_run_sends_its_start_each_interval_and_its_end(engine, reports):
    updates = RecordedRun(run(10, 4)).start_run(engine).result()
    assert [each.step for each in updates] == [0, 4, 8, 10]
    assert updates[-1].provenance.model == MODEL
    wait_until(lambda: sum(report.n_systems for report in reports) == 11)
    assert {report.n_atoms for report in reports} == {8}


def test_a_thread_and_a_process_send_the_same_updates(both):
    wanted = run(40, 10, force_kind="hybrid", inner_steps=5)
    one, other = (RecordedRun(wanted).start_run(both.engines[kind]).result() for kind in KINDS)
    assert [each.checkpoint for each in one] == [each.checkpoint for each in other]
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours.velocities, theirs.velocities)
        assert ours.species_temperatures == theirs.species_temperatures
        assert ours.disagreement == theirs.disagreement


def test_a_run_resumes_from_a_checkpoint_bit_for_bit(engine):
    whole = RecordedRun(run(20, 10)).start_run(engine).result()
    rest = RecordedRun(run(10, 10, origin=whole[1].checkpoint, model="")).start_run(engine).result()
    assert [each.checkpoint for each in rest] == [whole[2].checkpoint]


def test_a_relaxation_sends_its_start_each_interval_and_its_end(engine):
    system = crystal(8)
    wanted = RelaxRequest(
        MODEL, system, force_kind="conservative", fmax=1e-9, max_steps=7, interval=3
    )
    assert [each.step for each in RecordedRun(wanted).start_run(engine).result()] == [0, 3, 6, 7]


def test_nothing_is_computed_beyond_the_credit(engine, reports):
    recorded = RecordedRun(run(1_000_000), credit=3).start_run(engine)
    wait_until(lambda: recorded.steps == [0, 1, 2])
    finish_another_run(engine)  # other runs continue
    assert recorded.steps == [0, 1, 2]
    recorded.add_credit(2)
    wait_until(lambda: recorded.steps == [0, 1, 2, 3, 4])
    finish_another_run(engine)
    assert recorded.steps == [0, 1, 2, 3, 4]
    recorded.run.future.cancel()
    wait_until(lambda: sum(report.n_systems for report in reports) == 5 + 2 * 4)
    recorded.add_credit(1)  # the run is over
    finish_another_run(engine)
    assert recorded.steps == [0, 1, 2, 3, 4]


def test_a_canceled_run_ends(engine):
    recorded = RecordedRun(run(1_000_000_000)).start_run(engine)
    wait_until(lambda: recorded.steps)
    recorded.run.future.cancel()
    finish_another_run(engine)
    n_updates = len(recorded.steps)
    finish_another_run(engine)
    assert len(recorded.steps) == n_updates < 1_000_000
    wait_until(lambda: engine.n_waiting == 0)


def test_a_deadline_ends_a_run(engine):
    recorded = RecordedRun(run(1_000_000_000), deadline=time.monotonic() + 0.2).start_run(engine)
    with pytest.raises(DeadlineExceededError, match="before the last step"):
        recorded.run.future.result(PATIENCE)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (run(4, model="nobody"), UnknownModelError),
        (run(4, element=8), UnsupportedElementError),
        (run(5, 4, force_kind="hybrid", inner_steps=4), InvalidRequestError),
        (run(4, n_atoms=343), SystemTooLargeError),
        (PropagateRequest(MODEL, b"\x0a\x03abc", 4), InvalidRequestError),
        (RelaxRequest("nobody", crystal(8)), UnknownModelError),
    ],
    ids=["model", "element", "steps", "size", "checkpoint", "relaxation"],
)
def test_an_invalid_run_is_refused(engine, wanted, error):
    with pytest.raises(error):
        RecordedRun(wanted).start_run(engine).run.future.result(PATIENCE)
    assert RecordedRun(run(1)).start_run(engine).result()[-1].step == 1


def test_bytes_that_are_not_a_checkpoint_are_refused_immediately():
    with pytest.raises(
        InvalidRequestError, match="checkpoint: expected the checkpoint of a snapshot"
    ):
        RecordedRun(PropagateRequest(MODEL, b"\xff", 4))


def test_a_full_queue_refuses_new_runs_but_active_ones_continue(engine, gate):
    recorded = RecordedRun(run(1_000_000_000), credit=2).start_run(engine)
    wait_until(lambda: recorded.steps == [0, 1])
    with gate.closed():
        held = Request(MODEL, crystal(1, element=HELIUM), frozenset({"energy"}))
        engine.submit([held])
        wait_until(lambda: engine.n_waiting == 0)
        waiting = [Request(MODEL, crystal(2), frozenset({"energy"})) for _ in range(8)]
        engine.submit(waiting)
        with pytest.raises(OverloadedError):
            engine.start_run(RecordedRun(run(4)).run)
        recorded.add_credit(10)
    wait_until(lambda: recorded.steps[-1] == 11)
    recorded.run.future.cancel()
    for each in (held, *waiting):
        each.future.result(PATIENCE)


def test_runs_that_are_evaluated_together_stay_together_and_share_batches():
    soft = Gated()
    engine = ThreadEngine(lambda: {MODEL: loaded(soft, MODEL)}, Limits(max_hold=0.0))
    engine.start()
    engine.wait_until_ready(PATIENCE)
    n_warm_up = len(soft.batches)
    while soft.entered.acquire(blocking=False):
        pass
    first = Request(MODEL, crystal(1), frozenset({"energy", "conservative_forces"}))
    engine.submit([first])
    soft.entered.acquire()  # the others arrive while this one is on the device
    walkers = [RecordedRun(run(3, 3, n_atoms=n)).start_run(engine) for n in (8, 9, 10)]
    soft.gate.release()
    soft.entered.acquire()
    other = Request(MODEL, crystal(2), frozenset({"energy", "conservative_forces"}))
    engine.submit([other])
    soft.gate.release(100)
    for walker in walkers:
        walker.result()
    other.future.result(PATIENCE)
    engine.stop()
    batches = [sorted(batch) for batch in soft.batches[n_warm_up:]]
    assert batches == [[1], [8, 9, 10], [2, 8, 9, 10], [8, 9, 10], [8, 9, 10]]


def test_a_run_that_becomes_too_dense_ends_before_that_is_evaluated():
    soft = Soft()
    limits = Limits(max_pairs_per_system=30_000)
    engine = ThreadEngine(lambda: {MODEL: loaded(soft, MODEL)}, limits)
    engine.start()
    engine.wait_until_ready(PATIENCE)
    system = crystal(125)
    integrator = Integrator(force_kind="conservative")
    inwards = (system.positions.mean(axis=0) - system.positions) / integrator.duration
    recorded = RecordedRun(
        PropagateRequest(MODEL, Start(system, 0.99 * inwards, integrator), 10, 1)
    )
    with pytest.raises(PredictionError, match=r"after step 0 the system cannot .* pairs"):
        recorded.start_run(engine).run.future.result(PATIENCE)
    engine.stop()
    assert recorded.steps == [0]
    assert soft.batches.count((125,)) == 1


def test_a_resumed_run_reuses_its_neighbor_list():
    model = loaded(Soft(), "soft")
    with serve({"soft": model}) as server, Client(server.grpc_url) as client:
        *_, last = client.propagate(start(time_step_fs=0.01), 1, model="soft")
        n_searches = model.lists.n_searches
        for _ in range(5):
            *_, last = client.propagate(last, 1, model="soft")
        assert model.lists.n_searches == n_searches
        assert last.step == 6
        *_, again = client.propagate(start(time_step_fs=0.01), 6, model="soft")
    assert model.lists.n_searches > n_searches
    assert again.checkpoint == last.checkpoint


def test_an_engine_that_stops_ends_all_runs(make_spec):
    spec = make_spec()
    with running(spec) as process:
        thread = ThreadEngine(partial(load_models, spec))
        thread.start()
        thread.wait_until_ready(PATIENCE)
        for engine in (thread, process):
            moving = RecordedRun(run(1_000_000_000)).start_run(engine)
            waiting = RecordedRun(run(1_000_000_000), credit=1).start_run(engine)
            wait_until(lambda moving=moving, waiting=waiting: moving.steps and waiting.steps)
            engine.stop(PATIENCE)
            for recorded in (moving, waiting):
                with pytest.raises(UnavailableError, match="shutting down"):
                    recorded.run.future.result(0)
            with pytest.raises(UnavailableError, match="shutting down"):
                engine.start_run(RecordedRun(run(1)).run)


def test_a_run_stays_on_its_device_and_ends_when_that_fails(make_spec):
    batches = [], []
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                running(make_spec(), on_batch=lambda report, own=own: own.append(report.n_atoms))
            )
            for own in batches
        ]
        pool = EnginePool(engines)
        many, few = (RecordedRun(run(1_000_000_000, n_atoms=n)).start_run(pool) for n in (9, 8))
        wait_until(lambda: len(many.steps) > 20 and len(few.steps) > 20)
        wait_until(lambda: all(batches))
        assert [set(each) for each in batches] == [{9}, {8}]
        assert [engine.n_pending_atoms for engine in engines] == [9, 8]
        os.kill(engines[0].pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="killed by SIGKILL"):
            many.run.future.result(PATIENCE)
        n_updates = len(few.steps)
        wait_until(lambda: len(few.steps) > n_updates + 20)
        rest = run(10, 10, origin=many.updates[-1].checkpoint)
        assert RecordedRun(rest).start_run(pool).result()[-1].step == many.steps[-1] + 10
        few.run.future.cancel()
        wait_until(lambda: engines[1].n_pending_atoms == 0)


def test_many_short_and_canceled_runs_leave_the_queue_empty(engine):
    def start_runs(seed):
        for n_steps in range(1, 6):
            recorded = RecordedRun(run(n_steps, seed=seed)).start_run(engine)
            if n_steps % 2:
                assert recorded.result()[-1].step == n_steps
            else:
                recorded.run.future.cancel()

    threads = [threading.Thread(target=start_runs, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    wait_until(lambda: engine.n_waiting == engine.n_waiting_atoms == 0)
    checkpoint = Checkpoint.from_bytes(
        RecordedRun(run(1)).start_run(engine).result()[-1].checkpoint
    )
    assert checkpoint.model == MODEL
