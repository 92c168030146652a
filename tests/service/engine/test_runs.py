"""An engine moves walkers by itself: as far as it may, with others, and never for nobody."""

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
from twinforce import Client
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.ensembles import FS
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
from twinforce_service.process.engine_pool import EnginePool
from twinforce_service.scheduling.request import Limits, Request

MODEL = "troubled"
WAYS = ["thread", "process"]
# Number of atoms of a system that no other test uses.
LAST = 77


class Told:
    """A journey, and what it has told so far."""

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


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def pass_by(engine):
    """Complete a short run, which the engine does after everything that it was told before."""
    assert Told(run(3)).move(engine).result()[-1].step == 3


class Both:
    """The two kinds of engines, with the same models and limits, and what they report."""

    def __init__(self, stack, spec):
        self.reports = {way: [] for way in WAYS}
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
        yield Both(stack, make_spec(limits=limits))


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def engine(both, way):
    engine = both.engines[way]
    engine.wait_until_ready(PATIENCE)
    return engine


@pytest.fixture
def reports(both, way, engine):
    """Return the reports from now on; they may arrive after the answers, so wait for a last one."""
    reports = both.reports[way]
    last = Request(MODEL, crystal(LAST), frozenset({"energy"}))
    engine.submit([last])
    last.future.result(PATIENCE)
    wait_for(lambda: reports and reports[-1].n_atoms == LAST)
    reports.clear()
    return reports


def test_it_tells_its_start_each_interval_and_its_end(engine, reports):
    updates = Told(run(10, 4)).start_run(engine).result()
    assert [each.step for each in updates] == [0, 4, 8, 10]
    assert updates[-1].provenance.model == MODEL
    wait_for(lambda: sum(report.n_systems for report in reports) == 11)
    assert {report.n_atoms for report in reports} == {8}


def test_a_thread_and_a_process_move_alike(both):
    wanted = run(40, 10, force_kind="hybrid", inner_steps=5)
    one, other = (Told(wanted).start_run(both.engines[way]).result() for way in WAYS)
    assert [each.checkpoint for each in one] == [each.checkpoint for each in other]
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours.velocities, theirs.velocities)
        assert ours.species_temperatures == theirs.species_temperatures
        assert ours.disagreement == theirs.disagreement


def test_a_checkpoint_goes_on_bit_for_bit(engine):
    whole = Told(run(20, 10)).start_run(engine).result()
    rest = Told(run(10, 10, origin=whole[1].checkpoint, model="")).start_run(engine).result()
    assert [each.checkpoint for each in rest] == [whole[2].checkpoint]


def test_a_relaxation_is_a_journey_too(engine):
    system = crystal(8)
    wanted = RelaxRequest(
        MODEL, system, force_kind="conservative", fmax=1e-9, max_steps=7, interval=3
    )
    assert [each.step for each in Told(wanted).start_run(engine).result()] == [0, 3, 6, 7]


def test_nothing_is_computed_beyond_what_was_granted(engine, reports):
    told = Told(run(1_000_000), credit=3).start_run(engine)
    wait_for(lambda: told.steps == [0, 1, 2])
    pass_by(engine)  # others go on
    assert told.steps == [0, 1, 2]
    told.add_credit(2)
    wait_for(lambda: told.steps == [0, 1, 2, 3, 4])
    pass_by(engine)
    assert told.steps == [0, 1, 2, 3, 4]
    told.run.future.cancel()
    wait_for(lambda: sum(report.n_systems for report in reports) == 5 + 2 * 4)
    told.add_credit(1)  # comes too late
    pass_by(engine)
    assert told.steps == [0, 1, 2, 3, 4]


def test_a_journey_that_is_cancelled_ends(engine):
    told = Told(run(1_000_000_000)).start_run(engine)
    wait_for(lambda: told.steps)
    told.run.future.cancel()
    pass_by(engine)
    n_told = len(told.steps)
    pass_by(engine)
    assert len(told.steps) == n_told < 1_000_000
    wait_for(lambda: engine.n_waiting == 0)


def test_a_deadline_ends_it(engine):
    told = Told(run(1_000_000_000), deadline=time.monotonic() + 0.2).start_run(engine)
    with pytest.raises(DeadlineExceededError, match="before the last step"):
        told.run.future.result(PATIENCE)


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
def test_what_makes_no_sense_is_refused(engine, wanted, error):
    with pytest.raises(error):
        Told(wanted).start_run(engine).run.future.result(PATIENCE)
    assert Told(run(1)).start_run(engine).result()[-1].step == 1


def test_bytes_that_are_no_checkpoint_are_refused_at_once():
    with pytest.raises(
        InvalidRequestError, match="checkpoint: expected the checkpoint of a snapshot"
    ):
        Told(PropagateRequest(MODEL, b"\xff", 4))


def test_what_waits_refuses_new_journeys_and_none_under_way(engine, gate):
    told = Told(run(1_000_000_000), credit=2).start_run(engine)
    wait_for(lambda: told.steps == [0, 1])
    with gate.closed():
        held = Request(MODEL, crystal(1, element=HELIUM), frozenset({"energy"}))
        engine.submit([held])
        wait_for(lambda: engine.n_waiting == 0)
        waiting = [Request(MODEL, crystal(2), frozenset({"energy"})) for _ in range(8)]
        engine.submit(waiting)
        with pytest.raises(OverloadedError):
            engine.start_run(Told(run(4)).run)
        told.add_credit(10)
    wait_for(lambda: told.steps[-1] == 11)
    told.run.future.cancel()
    for each in (held, *waiting):
        each.future.result(PATIENCE)


def test_walkers_answered_together_ask_together_beside_others():
    soft = Gated()
    engine = ThreadEngine(lambda: {MODEL: loaded(soft, MODEL)}, Limits(max_hold=0.0))
    engine.start()
    engine.wait_until_ready(PATIENCE)
    n_warm_up = len(soft.batches)
    while soft.entered.acquire(blocking=False):
        pass
    first = Request(MODEL, crystal(1), frozenset({"energy", "conservative_forces"}))
    engine.submit([first])
    soft.entered.acquire()  # the others come while this one is on the device
    walkers = [Told(run(3, 3, n_atoms=n)).start_run(engine) for n in (8, 9, 10)]
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


def test_a_walker_that_rushes_into_a_crowd_is_stopped_before_that_is_evaluated():
    soft = Soft()
    limits = Limits(max_pairs_per_system=30_000)
    engine = ThreadEngine(lambda: {MODEL: loaded(soft, MODEL)}, limits)
    engine.start()
    engine.wait_until_ready(PATIENCE)
    system = crystal(125)
    integrator = Integrator(force_kind="conservative")
    inwards = (system.positions.mean(axis=0) - system.positions) / integrator.time_step
    told = Told(PropagateRequest(MODEL, Start(system, 0.99 * inwards, integrator), 10, 1))
    with pytest.raises(PredictionError, match=r"after step 0 the system cannot .* pairs"):
        told.start_run(engine).run.future.result(PATIENCE)
    engine.stop()
    assert told.steps == [0]
    assert soft.batches.count((125,)) == 1


def test_who_goes_on_finds_the_neighbor_list_of_before():
    model = loaded(Soft(), "soft")
    with serve({"soft": model}) as server, Client(server.grpc_url) as client:
        *_, last = client.propagate(start(time_step=0.01 * FS), 1, model="soft")
        n_searches = model.lists.n_searches
        for _ in range(5):
            *_, last = client.propagate(last, 1, model="soft")
        assert model.lists.n_searches == n_searches
        assert last.step == 6
        *_, again = client.propagate(start(time_step=0.01 * FS), 6, model="soft")
    assert model.lists.n_searches > n_searches
    assert again.checkpoint == last.checkpoint


def test_engines_that_stop_end_journeys(make_spec):
    spec = make_spec()
    with running(spec) as process:
        thread = ThreadEngine(partial(load_models, spec))
        thread.start()
        thread.wait_until_ready(PATIENCE)
        for engine in (thread, process):
            moving = Told(run(1_000_000_000)).start_run(engine)
            stalled = Told(run(1_000_000_000), credit=1).start_run(engine)
            wait_for(lambda moving=moving, stalled=stalled: moving.steps and stalled.steps)
            engine.stop(PATIENCE)
            for told in (moving, stalled):
                with pytest.raises(UnavailableError, match="shutting down"):
                    told.run.future.result(0)
            with pytest.raises(UnavailableError, match="shutting down"):
                engine.start_run(Told(run(1)).run)


def test_a_walker_stays_on_its_device_and_dies_with_it(make_spec):
    batches = [], []
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                running(make_spec(), on_batch=lambda report, own=own: own.append(report.n_atoms))
            )
            for own in batches
        ]
        pool = EnginePool(engines)
        many, few = (Told(run(1_000_000_000, n_atoms=n)).start_run(pool) for n in (9, 8))
        wait_for(lambda: len(many.steps) > 20 and len(few.steps) > 20)
        wait_for(lambda: all(batches))
        assert [set(each) for each in batches] == [{9}, {8}]
        assert [engine.n_pending_atoms for engine in engines] == [9, 8]
        os.kill(engines[0].pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="killed by SIGKILL"):
            many.run.future.result(PATIENCE)
        n_told = len(few.steps)
        wait_for(lambda: len(few.steps) > n_told + 20)
        rest = run(10, 10, origin=many.updates[-1].checkpoint)
        assert Told(rest).start_run(pool).result()[-1].step == many.steps[-1] + 10
        few.run.future.cancel()
        wait_for(lambda: engines[1].n_pending_atoms == 0)


def test_many_journeys_that_come_and_go_leave_nothing_behind(engine):
    def follow(seed):
        for n_steps in range(1, 6):
            told = Told(run(n_steps, seed=seed)).start_run(engine)
            if n_steps % 2:
                assert told.result()[-1].step == n_steps
            else:
                told.run.future.cancel()

    threads = [threading.Thread(target=follow, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    wait_for(lambda: engine.n_waiting == engine.n_waiting_atoms == 0)
    checkpoint = Checkpoint.from_bytes(Told(run(1)).start_run(engine).result()[-1].checkpoint)
    assert checkpoint.model == MODEL
