"""Tests of the engine in a thread: every accepted request completes, whatever happens."""

import dataclasses
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.potentials import (
    ARGON,
    NEON,
    Gated,
    NonFinite,
    Raising,
    Soft,
    TooLittle,
    WithoutDirect,
    loaded,
)
from tests.systems import crystal, molecule
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.prediction import predict
from twinforce_models.tables.predictor import TablePredictor
from twinforce_proto import (
    OUTPUTS,
    DeadlineExceededError,
    ModelLoadError,
    NonFinitePredictionError,
    OverloadedError,
    PredictionError,
    System,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.engine import evaluation, warm_up
from twinforce_service.engine.pulse import NoPulse
from twinforce_service.engine.thread_engine import ThreadEngine
from twinforce_service.scheduling import budgets
from twinforce_service.scheduling.request import Limits, Request

BOTH = frozenset({"energy", "conservative_forces"})
ENERGY = frozenset({"energy"})
PATIENCE = 60.0


@pytest.fixture
def start():
    """Return a function that starts an engine, which is stopped at the end."""
    engines = []

    def start(*potentials, until_ready=True, **options):
        names = [f"model-{i}" for i in range(len(potentials))]
        models = {n: loaded(p, n) for n, p in zip(names, potentials, strict=True)}
        engines.append(ThreadEngine(lambda: models, **options))
        engines[-1].start()
        if until_ready:
            engines[-1].wait_until_ready(PATIENCE)
        return engines[-1]

    yield start
    for engine in engines:
        engine.stop(PATIENCE)


def request(system=None, outputs=BOTH, model="model-0", **values):
    return Request(model, molecule() if system is None else system, outputs, **values)


def submit(engine, *requests):
    engine.submit(requests)
    return [each.future for each in requests]


def results(engine, *requests):
    return [future.result(PATIENCE) for future in submit(engine, *requests)]


def busy(engine, potential):
    """Keep a gated engine busy with one request, and return its future."""
    (future,) = submit(engine, request())
    for _ in range(3):
        assert potential.entered.acquire(timeout=PATIENCE)
    return future


def neon(n_atoms=3, **values):
    return request(molecule(n_atoms, element=NEON), **values)


def assert_works(engine):
    assert results(engine, request())[0].energy > 0


def test_predictions_equal_those_of_the_potential(start):
    engine = start(Soft())
    systems = [crystal(5), molecule(3), crystal(2, seed=1)]
    expected = [predict(Soft(), [system], BOTH)[0] for system in systems]
    for ours, theirs in zip(results(engine, *map(request, systems)), expected, strict=True):
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-10)
        np.testing.assert_allclose(ours.conservative_forces, theirs.conservative_forces, atol=1e-10)


def test_each_prediction_holds_only_the_requested_outputs(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    wanted = [frozenset({name}) for name in OUTPUTS] + [BOTH, frozenset(OUTPUTS)]
    futures = submit(engine, *(request(crystal(), outputs=outputs) for outputs in wanted))
    potential.gate.release(100)
    held.result(PATIENCE)
    for outputs, future in zip(wanted, futures, strict=True):
        prediction = future.result(PATIENCE)
        given = {name for name in OUTPUTS if getattr(prediction, name) is not None}
        assert given == outputs


def test_no_two_predictions_share_an_array(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    system = molecule()
    futures = submit(engine, request(system), request(system))
    potential.gate.release(100)
    held.result(PATIENCE)
    one, other = (future.result(PATIENCE).conservative_forces for future in futures)
    assert potential.batches[-1] == (3, 3)
    assert not np.shares_memory(one, other)
    assert not np.shares_memory(one, system.positions)


def test_requests_that_arrive_while_the_device_is_busy_share_a_batch(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    futures = [submit(engine, request(molecule(n)))[0] for n in (1, 2, 3)]
    potential.gate.release(2)
    wait([held, *futures], PATIENCE)
    assert potential.batches[-2:] == [(3,), (1, 2, 3)]


def test_a_single_request_is_evaluated_without_waiting(start):
    reports = []
    engine = start(Soft(), on_batch=reports.append)
    results(engine, request())
    engine.stop()
    assert [(each.n_systems, each.held_s) for each in reports] == [(1, 0.0)]


def test_autograd_and_direct_heads_are_used_only_if_requested(start):
    class Recording(Soft):
        def forward_heads(self, batch, *, direct):
            recorded.append((torch.is_grad_enabled(), direct))
            return super().forward_heads(batch, direct=direct)

    recorded = []
    engine = start(Recording())
    for outputs in (ENERGY, {"direct_forces"}, {"conservative_forces"}, {"direct_forces", *BOTH}):
        results(engine, request(outputs=frozenset(outputs)))
    assert recorded[-4:] == [(False, False), (False, True), (True, False), (True, True)]


def test_predictions_have_a_provenance_and_timings(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    futures = submit(engine, request(molecule(2)), request(molecule(5)))
    potential.gate.release(2)
    assert held.result(PATIENCE).timings.queue_n_atoms == 7
    for future in futures:
        prediction = future.result(PATIENCE)
        assert prediction.provenance.model == "model-0"
        assert prediction.provenance.sha256 == "0" * 64
        assert prediction.provenance.dtype == "float64"
        assert prediction.provenance.device == "cpu"
        assert (prediction.timings.batch_n_systems, prediction.timings.batch_n_atoms) == (2, 7)
        assert prediction.timings.queue_n_atoms == 0
        assert prediction.timings.queue_s > 0
        assert prediction.timings.compute_s > 0


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (request(model="ice"), UnknownModelError, "served: model-0, model-1"),
        (
            request(model="model-1", outputs=frozenset({"direct_forces"})),
            UnsupportedOutputError,
            "'model-1' has no direct_forces; it has energy, atom_energies, conservative_forces",
        ),
        (request(molecule(element=8)), UnsupportedElementError, r"supports \(10, 18\), got 8"),
        (
            request(outputs=frozenset({"conservative_stress"})),
            UnsupportedOutputError,
            "cell: expected vectors, .* per volume, got no cell",
        ),
        (request(molecule(9)), SystemTooLargeError, "at most 8 atoms, got 9"),
    ],
)
def test_an_unsupported_request_is_refused_before_any_is_queued(start, bad, error, message):
    potential = Soft()
    engine = start(potential, WithoutDirect(), limits=Limits(max_atoms_per_system=8))
    n_warm_up = len(potential.batches)
    good = request()
    with pytest.raises(error, match=message):
        engine.submit([good, bad])
    assert not good.future.done()
    assert engine.n_waiting == 0
    assert len(potential.batches) == n_warm_up
    assert_works(engine)


def test_a_refusal_names_the_index_of_the_system(start):
    engine = start(Soft())
    systems = [molecule(), molecule(element=8)]
    with pytest.raises(UnsupportedElementError, match=r"systems\[1\]: atomic_numbers"):
        engine.submit([request(each, system_index=i) for i, each in enumerate(systems)])


@pytest.mark.parametrize("potential", [Raising(), TooLittle()], ids=["raises", "too little"])
def test_one_bad_system_fails_alone(start, potential):
    engine = start(potential)
    requests = [neon(n) if n == 5 else request(molecule(n)) for n in range(1, 9)]
    futures = submit(engine, *requests)
    with pytest.raises(PredictionError, match="the model failed on this system: RuntimeError"):
        futures[4].result(PATIENCE)
    for future in futures[:4] + futures[5:]:
        assert future.result(PATIENCE).energy is not None
    assert_works(engine)


def test_a_model_that_always_fails_does_not_stop_the_engine(start):
    engine = start(Raising(), Soft())
    for future in submit(engine, *(neon() for _ in range(5))):
        with pytest.raises(PredictionError):
            future.result(PATIENCE)
    assert results(engine, request(model="model-1"))


def test_a_prediction_that_is_not_finite_fails_only_its_system(start):
    potential = NonFinite()
    engine = start(potential)
    futures = submit(engine, request(), neon(system_index=1), request())
    with pytest.raises(NonFinitePredictionError, match=r"systems\[1\]: energy: .* NaN"):
        futures[1].result(PATIENCE)
    assert futures[0].result(PATIENCE).energy == futures[2].result(PATIENCE).energy


def test_outputs_that_were_not_requested_need_not_be_finite(start):
    engine = start(NonFinite())
    outputs = frozenset({"direct_forces"})
    assert results(engine, neon(outputs=outputs))[0].direct_forces is not None


def test_an_output_that_a_model_has_for_periodic_systems_only_is_refused_to_others(start):
    potential = Soft()
    potential.outputs_if_periodic = frozenset({"direct_stress"})
    engine = start(potential)
    slab = System(
        crystal().atomic_numbers, crystal().positions, crystal().cell, [True, True, False]
    )
    both, own = (frozenset({"energy", f"{kind}_stress"}) for kind in ("direct", "conservative"))
    one, two, three = submit(
        engine, request(crystal(), both), request(slab, both, system_index=1), request(slab, own)
    )
    with pytest.raises(UnsupportedOutputError, match=r"^systems\[1\]: pbc: .* no direct_stress"):
        two.result(PATIENCE)
    assert one.result(PATIENCE).direct_stress is not None
    assert three.result(PATIENCE).conservative_stress is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=["device", "host", "host, by torch"],
)
def test_a_system_that_does_not_fit_into_memory_is_too_large(start, error):
    engine = start(Raising(error))
    good, bad = submit(engine, request(), neon(7))
    with pytest.raises(SystemTooLargeError, match="7 atoms do not fit into the memory of cpu"):
        bad.result(PATIENCE)
    assert good.result(PATIENCE)


class Asserting(Raising):
    """A potential whose device asserts for neon, and then fails whatever it is asked."""

    def forward_heads(self, batch, *, direct):
        if (batch.atomic_numbers == NEON).any():
            self.device = torch.device("cuda", 0)
        return super().forward_heads(batch, direct=direct)


def test_an_engine_ends_once_its_device_fails_whatever_it_is_asked(start, monkeypatch):
    """Nothing but a new process helps after a device-side assertion."""

    def synchronize(device):
        raise RuntimeError(f"CUDA error on {device}: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    engine = start(Asserting(RuntimeError("CUDA error: device-side assert triggered")))
    futures = submit(engine, neon(), request())
    for future in futures:
        with pytest.raises(UnavailableError, match="device-side assert triggered"):
            future.result(PATIENCE)
    assert not engine.is_alive


def test_a_service_error_of_the_model_is_reported_unchanged(start):
    engine = start(Raising(UnsupportedOutputError("not for neon")))
    with pytest.raises(UnsupportedOutputError, match=r"^systems\[0\]: not for neon$"):
        results(engine, neon(system_index=0))


def test_a_request_that_is_canceled_in_the_queue_is_not_evaluated(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    gone, kept = submit(engine, request(molecule(1)), request(molecule(2)))
    assert gone.cancel()
    potential.gate.release(2)
    assert held.result(PATIENCE)
    assert kept.result(PATIENCE)
    assert potential.batches[-2:] == [(3,), (2,)]


def test_an_expired_request_is_not_evaluated(start):
    potential = Gated()
    engine = start(potential)
    held = busy(engine, potential)
    late, kept = submit(
        engine, request(molecule(1), deadline=time.monotonic()), request(molecule(2))
    )
    potential.gate.release(2)
    assert held.result(PATIENCE)
    with pytest.raises(DeadlineExceededError):
        late.result(PATIENCE)
    assert kept.result(PATIENCE)
    assert potential.batches[-2:] == [(3,), (2,)]


def test_a_full_queue_refuses_requests_and_the_accepted_ones_complete(start):
    potential = Gated()
    engine = start(potential, limits=Limits(max_waiting=2))
    held = busy(engine, potential)
    futures = submit(engine, request(), request())
    with pytest.raises(OverloadedError) as refused:
        engine.submit([request()])
    assert refused.value.retry_after > 0
    potential.gate.release(100)
    for future in (held, *futures):
        assert future.result(PATIENCE)
    assert_works(engine)


def test_stopping_finishes_accepted_requests(start):
    potential = Gated()
    engine = start(potential)
    futures = [busy(engine, potential), *submit(engine, request(), request(outputs=ENERGY))]
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    while engine.is_ready:
        time.sleep(0.001)
    with pytest.raises(UnavailableError, match="shutting down"):
        engine.submit([request()])
    potential.gate.release(100)
    for future in futures:
        assert future.result(PATIENCE)
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert engine.is_alive


def test_stopping_ends_unfinished_requests_after_its_timeout(start):
    potential = Gated()
    engine = start(potential)
    futures = [busy(engine, potential), *submit(engine, request())]
    engine.stop(0.05)
    for future in futures:
        with pytest.raises(UnavailableError, match="stopped before"):
            future.result(0)
    potential.gate.release(100)


def test_an_engine_can_be_stopped_twice_or_before_it_was_started(start):
    engine = start(Soft())
    engine.stop()
    engine.stop()
    never = ThreadEngine(dict)
    never.stop()
    with pytest.raises(UnavailableError, match="shutting down"):
        never.submit([request()])


@pytest.mark.parametrize("error", [SystemExit("over"), KeyboardInterrupt()])
def test_all_requests_complete_and_the_engine_is_not_alive_if_its_thread_fails(start, error):
    engine = start(Raising(error))
    futures = submit(engine, request(), neon(), request())
    assert not wait(futures, PATIENCE).not_done
    for future in futures:
        with pytest.raises(UnavailableError, match="the engine thread failed"):
            future.result(0)
    assert not engine.is_alive
    assert not engine.is_ready
    with pytest.raises(UnavailableError, match="the engine thread failed"):
        engine.submit([request()])


def test_a_failing_report_callback_does_not_stop_the_engine(start):
    def fail(_):
        raise RuntimeError("no metrics today")

    engine = start(Soft(), on_batch=fail)
    assert_works(engine)
    assert_works(engine)


def test_batches_are_reported(start):
    reports = []
    engine = start(Soft(), on_batch=reports.append)
    results(engine, request(molecule(2)), request(molecule(3)))
    engine.stop()
    assert [(each.model, each.n_systems, each.n_atoms) for each in reports] == [("model-0", 2, 5)]
    assert len(reports[0].queue_s) == 2


def test_an_engine_refuses_requests_until_its_models_are_loaded():
    permission = threading.Event()

    def load():
        permission.wait(PATIENCE)
        return {"soft": loaded(Soft())}

    engine = ThreadEngine(load)
    engine.start()
    with pytest.raises(UnavailableError, match="starting"):
        engine.submit([request(model="soft")])
    with pytest.raises(UnavailableError, match="starting"):
        engine.find("soft")
    assert engine.is_alive
    assert not engine.is_ready
    permission.set()
    engine.wait_until_ready(PATIENCE)
    assert results(engine, request(model="soft"))
    engine.stop()


def test_models_are_warmed_up_before_the_engine_is_ready(start):
    potential = Soft()
    start(potential)
    assert len(potential.batches) == 2


def test_a_model_that_cannot_be_evaluated_is_a_load_error(start):
    broken = Raising()
    broken.elements = (NEON,)
    engine = start(broken, until_ready=False)
    with pytest.raises(ModelLoadError, match="'model-0' cannot be evaluated: RuntimeError: no"):
        engine.wait_until_ready(PATIENCE)
    assert not engine.is_alive
    with pytest.raises(ModelLoadError):
        engine.submit([request()])


def test_a_model_that_cannot_be_loaded_is_a_load_error():
    def load():
        raise ValueError("no such file")

    engine = ThreadEngine(load)
    engine.start()
    with pytest.raises(ModelLoadError, match="ValueError: no such file"):
        engine.wait_until_ready(PATIENCE)


def test_a_model_has_the_name_that_it_is_served_under():
    engine = ThreadEngine(lambda: {"mine": loaded(Soft(), "theirs")})
    engine.start()
    engine.wait_until_ready(PATIENCE)
    assert engine.models["mine"].name == engine.find("mine").name == "mine"
    assert results(engine, request(model="mine"))[0].provenance.model == "mine"
    engine.stop()


def test_requests_from_many_threads_get_the_right_answers(start):
    engine = start(Soft(), Soft())
    systems = [crystal(n % 7 + 1, seed=n) for n in range(40)]
    expected = [predict(Soft(), [system], OUTPUTS)[0] for system in systems]
    answers: dict[int, Future] = {}

    def call(n):
        outputs = frozenset({OUTPUTS[n % 6], OUTPUTS[n % 5], "energy"})
        answers[n] = submit(engine, request(systems[n], outputs, f"model-{n % 2}"))[0]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, future in answers.items():
        prediction = future.result(PATIENCE)
        assert prediction.provenance.model == f"model-{n % 2}"
        for name in {OUTPUTS[n % 6], OUTPUTS[n % 5], "energy"}:
            np.testing.assert_allclose(
                getattr(prediction, name), getattr(expected[n], name), atol=1e-10
            )


def test_requests_that_differ_only_in_their_model_get_different_answers(start):
    class Twice(Soft):
        def forward_heads(self, batch, *, direct):
            heads = super().forward_heads(batch, direct=direct)
            return replace(heads, atom_energies=2 * heads.atom_energies)

    engine = start(Soft(), Twice())
    system = molecule(element=ARGON)
    one, two = results(engine, request(system), request(system, model="model-1"))
    assert two.energy == pytest.approx(2 * one.energy)


class Cramped(Soft):
    """A potential that runs out of memory with more than 20 atoms."""

    def forward_heads(self, batch, *, direct):
        if batch.n_atoms > 20:
            self.batches.append(batch.n_atoms_per_system)
            raise torch.OutOfMemoryError("out of memory")
        return super().forward_heads(batch, direct=direct)


def test_batches_become_smaller_after_memory_ran_out(start):
    potential = Cramped()
    engine = start(potential)
    for future in submit(engine, *(request(molecule(3)) for _ in range(16))):
        assert future.result(PATIENCE).energy > 0
    n_before = len(potential.batches)
    assert any(sum(each) > 20 for each in potential.batches)
    for future in submit(engine, *(request(molecule(3)) for _ in range(16))):
        assert future.result(PATIENCE).energy > 0
    assert all(sum(each) <= 20 for each in potential.batches[n_before:])


def test_a_system_that_did_not_fit_into_memory_is_refused_next_time(start):
    potential = Cramped()
    engine = start(potential)
    with pytest.raises(SystemTooLargeError, match="30 atoms do not fit into the memory of cpu"):
        results(engine, request(molecule(30)))
    n_before = len(potential.batches)
    with pytest.raises(SystemTooLargeError, match="less than about 30 atoms as dense as these"):
        engine.submit([request(molecule(30))])
    assert len(potential.batches) == n_before
    assert_works(engine)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("with_tables", [False, True])
@pytest.mark.parametrize("with_autograd", [False, True])
def test_the_memory_of_a_batch_on_a_gpu_is_as_measured(with_autograd, with_tables):
    device = torch.device("cuda")
    model = registry.load("water", device=device)
    if with_tables:
        model = dataclasses.replace(model, tables=TablePredictor(model.potential))
    samples, n_free = warm_up.memory_samples(model, with_autograd=with_autograd)
    budget = budgets.fit_budget(samples, n_free)
    outputs = BOTH if with_autograd else frozenset({"direct_forces"})
    systems = [crystal(600, element=8)] * 8
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    requests = [Request("water", system, outputs) for system in systems]
    answers = evaluation.evaluate(model, requests, Limits())
    taken = torch.cuda.max_memory_allocated(device) - before
    n_pairs = Batch.from_systems(systems, model.potential.cutoff).n_pairs
    fixed = n_free - budget.alone
    assert all(answer.direct_forces is not None or with_autograd for answer in answers)
    assert taken <= 1.5 * (fixed + budget.load(4800, n_pairs))
    assert 0.25 * (fixed + budget.load(4800, n_pairs)) <= taken


class Compiling(Soft):
    """A potential whose first evaluations take longer, as if they compiled something."""

    def __init__(self):
        super().__init__()
        self.delays = [0.1, 0.1]

    def forward_heads(self, batch, *, direct):
        time.sleep(self.delays.pop() if self.delays else 0.0)
        return super().forward_heads(batch, direct=direct)


class Signs(NoPulse):
    """The times that batches were allowed."""

    def __init__(self):
        self.allowed = []

    def begin(self, batch, seconds):
        self.allowed.append((len(batch), seconds))


def test_a_first_batch_may_take_ten_times_as_long_as_the_warm_up(start):
    signs = Signs()
    engine = start(Compiling(), pulse=signs, watchdog=1.0)
    results(engine, request(molecule(3)))
    ((n_systems, seconds),) = signs.allowed
    assert n_systems == 1
    assert seconds >= 30.0 + 0.3 + 10 * 0.2
