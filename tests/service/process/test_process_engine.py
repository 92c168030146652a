"""Tests of an engine in another process: its answers, its restarts and its end."""

import gc
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import CancelledError, wait
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.potentials import ARGON, NEON
from tests.service.conftest import PATIENCE, running
from tests.service.troubled import HELIUM, KRYPTON, XENON
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce_proto import (
    OUTPUTS,
    DeadlineExceededError,
    InvalidSystemError,
    ModelLoadError,
    OverloadedError,
    PredictionError,
    ServiceError,
    System,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.callers.caller import Caller
from twinforce_service.engine.loading import load_models
from twinforce_service.engine.thread_engine import ThreadEngine
from twinforce_service.process import channel, messages
from twinforce_service.process.process_engine import ProcessEngine
from twinforce_service.process.request_messages import requests_to_frames
from twinforce_service.process.request_sender import RequestSender
from twinforce_service.scheduling.request import JacobianRequest, Limits, Request

ENERGY = frozenset({"energy"})
HYBRID = frozenset({"energy", "conservative_forces", "direct_forces"})
LIMITS = Limits(max_atoms_per_system=300, max_waiting=8)
# Number of atoms of a system that no other test uses.
LAST = 77


class RunningEngine:
    """An engine process with its reports of batches and its restarts."""

    def __init__(self):
        self.reports, self.restarts = [], []

    def drop_reports(self):
        """Drop all reports; they may arrive after the answers, so wait for one of a last batch."""
        results(self.engine, request(molecule(LAST)))
        wait_until(lambda: self.reports and self.reports[-1].n_atoms == LAST)
        self.reports.clear()


@pytest.fixture(scope="module")
def shared(make_spec):
    """Run the engine that most tests share."""
    running_engine = RunningEngine()
    spec = make_spec(limits=LIMITS)
    with running(
        spec, on_batch=running_engine.reports.append, on_restart=running_engine.restarts.append
    ) as engine:
        running_engine.engine = engine
        yield running_engine


@pytest.fixture
def engine(shared):
    shared.engine.wait_until_ready(PATIENCE)
    return shared.engine


@pytest.fixture(scope="module")
def thread_engine(make_spec):
    """Run an engine that serves the same models in a thread."""
    spec = make_spec(limits=LIMITS)
    engine = ThreadEngine(partial(load_models, spec), spec.limits)
    engine.start()
    engine.wait_until_ready(PATIENCE)
    yield engine
    engine.stop(PATIENCE)


def request(system=None, outputs=ENERGY, model="troubled", **values):
    return Request(model, molecule() if system is None else system, outputs, **values)


def submit(engine, *requests):
    engine.submit(requests)
    return [each.future for each in requests]


def results(engine, *requests):
    return [future.result(PATIENCE) for future in submit(engine, *requests)]


def busy(engine, **values):
    """Occupy the device until the gate is opened, and return the future."""
    (future,) = submit(engine, request(molecule(element=HELIUM), **values))
    wait_until(lambda: engine.n_waiting == 0)
    return future


SYSTEMS = [
    crystal(27),
    molecule(5),
    molecule(1),
    System([ARGON, ARGON], [[0, 0, 0], [0, 0, 3.1]], np.diag([9, 9, 0]), [True, True, False]),
    crystal(216, seed=3),
]


@pytest.mark.parametrize("outputs", [ENERGY, {"direct_forces"}, HYBRID, set(OUTPUTS)], ids=len)
def test_answers_equal_those_of_a_thread_engine_bit_for_bit(engine, thread_engine, outputs):
    systems = SYSTEMS if len(outputs) <= 3 else [each for each in SYSTEMS if each.pbc.all()]
    for system in systems:
        ask = partial(request, system, frozenset(outputs))
        (ours,), (theirs,) = results(engine, ask()), results(thread_engine, ask())
        assert ours.energy == theirs.energy
        for name in OUTPUTS[1:]:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.provenance == theirs.provenance
        assert ours.timings.batch_n_atoms == len(system)
        assert ours.timings.queue_n_atoms == 0
        assert ours.timings.compute_s > 0


def test_the_models_are_those_of_a_thread_engine(engine, thread_engine):
    assert engine.models == thread_engine.models
    assert engine.find("lj") == thread_engine.find("lj")
    assert engine.device == "cpu"


def test_a_batch_is_answered_and_reported_together(engine, shared, gate):
    shared.drop_reports()
    with gate.closed():
        first = busy(engine)
        futures = submit(engine, *(request(molecule(n), HYBRID) for n in (1, 2, 3)))
    for n_atoms, future in zip((1, 2, 3), [first, *futures][1:], strict=True):
        assert future.result(PATIENCE).direct_forces.shape == (n_atoms, 3)
        assert future.result().timings.batch_n_systems == 3
        assert future.result().timings.queue_s > 0
    wait_until(lambda: len(shared.reports) == 2)
    report = shared.reports[-1]
    assert (report.model, report.n_systems, report.n_atoms) == ("troubled", 3, 6)
    assert len(report.queue_s) == 3
    # A single atom has no forces.
    assert report.disagreements[0].rmse == 0
    prediction = futures[2].result()
    difference = prediction.conservative_forces - prediction.direct_forces
    assert report.disagreements[2].rmse == np.sqrt(np.square(difference).mean())
    assert report.disagreements[2].by_element.keys() == {ARGON}


def test_arrays_of_answers_are_read_only_and_not_shared(engine):
    one, other = results(engine, request(outputs=HYBRID), request(outputs=HYBRID))
    assert not one.direct_forces.flags.writeable
    assert not np.shares_memory(one.direct_forces, other.direct_forces)


def test_rows_of_a_jacobian_equal_those_of_a_thread_engine(engine, thread_engine):
    def ask(rows):
        values = {"model": "lj", "system": crystal(), "outputs": frozenset({"direct_forces"})}
        return JacobianRequest(**values, rows=rows)

    for rows in (range(4), range(4, 24)):
        (ours,), (theirs,) = results(engine, ask(rows)), results(thread_engine, ask(rows))
        assert ours.values.shape == (len(rows), 24)
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert ours.provenance == theirs.provenance


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (request(model="ice"), UnknownModelError),
        (request(molecule(element=8)), UnsupportedElementError),
        (request(outputs=frozenset({"direct_stress"})), UnsupportedOutputError),
        (request(crystal(301)), SystemTooLargeError),
        (request(System([ARGON], [[0, 0, 0]], charge=1)), InvalidSystemError),
    ],
)
def test_an_unsupported_request_is_refused_before_it_is_sent(engine, shared, bad, error):
    shared.drop_reports()
    good = request()
    with pytest.raises(error):
        engine.submit([good, bad])
    assert (good.future.done(), engine.n_pending_atoms) == (False, 0)
    results(engine, request())
    wait_until(lambda: shared.reports)
    assert [report.n_systems for report in shared.reports] == [1]


def test_one_bad_system_fails_alone(engine, gate):
    with gate.closed():
        held = busy(engine)
        elements = (ARGON, KRYPTON, ARGON)
        futures = submit(
            engine,
            *(request(molecule(element=z), system_index=i) for i, z in enumerate(elements)),
        )
    wait([held, *futures], PATIENCE)
    with pytest.raises(PredictionError, match=r"systems\[1\]: .* no krypton, please"):
        futures[1].result()
    assert futures[0].result().energy == futures[2].result().energy


def test_a_deadline_that_passes_in_the_queue_is_an_error(engine, gate):
    with gate.closed():
        held = busy(engine)
        (late,) = submit(engine, request(deadline=time.monotonic()))
    with pytest.raises(DeadlineExceededError):
        late.result(PATIENCE)
    held.result(PATIENCE)


def test_a_request_that_is_canceled_in_the_queue_is_not_evaluated(engine, shared, gate):
    shared.drop_reports()
    with gate.closed():
        held = busy(engine)
        unwanted, wanted = submit(engine, request(molecule(7)), request(molecule(2)))
        assert unwanted.cancel()
        assert engine.n_pending_atoms == 3 + 2
    held.result(PATIENCE)
    wanted.result(PATIENCE)
    with pytest.raises(CancelledError):
        unwanted.result(PATIENCE)
    wait_until(lambda: len(shared.reports) == 2)
    assert [report.n_atoms for report in shared.reports] == [3, 2]


def submit_when_there_is_room(engine):
    for _ in range(100):
        try:
            return submit(engine, request())[0]
        except OverloadedError as error:
            time.sleep(error.retry_after)
    raise AssertionError("there is never room")


def test_canceled_requests_make_room_in_a_full_queue(engine, gate):
    with gate.closed():
        held = busy(engine)
        futures = submit(engine, *(request() for _ in range(8)))
        wait_until(lambda: (engine.n_waiting, engine.n_waiting_atoms) == (8, 24))
        with pytest.raises(OverloadedError, match="8 systems of 24 atoms") as refused:
            engine.submit([request()])
        assert refused.value.retry_after > 0
        assert futures[0].cancel()
        futures.append(submit_when_there_is_room(engine))
    wait([held, *(future for future in futures if not future.cancelled())], PATIENCE)
    assert all(future.cancelled() or future.result().energy for future in futures)
    assert engine.n_waiting == 0


def test_a_full_queue_admits_callers_that_hold_less_than_their_share(engine, gate):
    eve, ada = Caller("eve"), Caller("ada")
    with gate.closed():
        held = busy(engine)
        futures = submit(engine, *(request(caller=eve) for _ in range(8)))
        wait_until(lambda: engine.n_waiting == 8)
        futures += submit(engine, *(request(caller=ada) for _ in range(2)))
        for caller in (eve, ada):
            with pytest.raises(OverloadedError, match="are already waiting"):
                engine.submit([request(caller=caller) for _ in range(3)])
    wait([held, *futures], PATIENCE)
    assert all(future.result().energy for future in futures)
    assert engine.n_waiting == 0
    (last,) = submit(engine, request(caller=eve))
    assert last.result(PATIENCE).energy


def kill(engine):
    os.kill(engine.pid, signal.SIGKILL)


def ask_for(element):
    return lambda engine: engine.submit([request(molecule(element=element))])


@pytest.mark.parametrize(
    ("fail", "cause"),
    [
        (kill, "its process was killed by SIGKILL"),
        (ask_for(NEON), "its process was killed by SIGKILL"),
        (ask_for(XENON), "the device is gone"),
    ],
    ids=["killed", "killed in a batch", "loses its device"],
)
def test_an_engine_that_fails_is_restarted_and_requests_can_be_sent_again(
    engine, shared, gate, fail, cause
):
    (before,) = results(engine, request(outputs=HYBRID))
    shared.restarts.clear()
    pid = engine.pid
    with gate.starts_held():
        with gate.closed():
            held = busy(engine)
            if fail is not kill:
                fail(engine)
            futures = submit(engine, *(request(outputs=HYBRID) for _ in range(4)))
            if fail is kill:  # nothing is accepted once the exit is noticed
                fail(engine)
                futures.append(held)
            else:  # the deadly request comes after the held one
                gate.open()
            wait(futures, PATIENCE)
        assert engine.is_alive
        for future in futures:
            with pytest.raises(UnavailableError, match=cause) as ended:
                future.result()
            assert ended.value.retry_after > 0
        with pytest.raises(UnavailableError, match="being restarted") as refused:
            engine.submit([request()])
        assert refused.value.retry_after > 0
        assert not engine.is_ready
        assert engine.find("troubled").name == "troubled"
    engine.wait_until_ready(PATIENCE)
    assert shared.restarts == ["cpu"]
    assert engine.pid != pid
    assert not is_running(pid)
    (after,) = results(engine, request(outputs=HYBRID))
    assert after.energy == before.energy


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_model_that_cannot_be_loaded_gives_the_error_of_a_thread_engine(make_spec):
    spec = make_spec(models={"mine": "/nowhere"})
    thread = ThreadEngine(partial(load_models, spec))
    texts = []
    for engine in (ProcessEngine(spec), thread):
        engine.start()
        with pytest.raises(ModelLoadError) as failed:
            engine.wait_until_ready(PATIENCE)
        texts.append(str(failed.value))
        assert not engine.is_alive
        engine.stop()
    assert texts[0] == texts[1]
    assert "/nowhere" in texts[0]


def test_a_model_that_kills_its_process_is_a_load_error(make_spec, troubled_model):
    deadly = troubled_model[0] / "deadly"
    deadly.touch()
    engine = ProcessEngine(make_spec())
    engine.start()
    try:
        with pytest.raises(ModelLoadError, match=r"cpu did not start: .* killed by SIGKILL"):
            engine.wait_until_ready(PATIENCE)
    finally:
        deadly.unlink()
        engine.stop()


def test_stopping_obeys_its_timeout_and_removes_the_process_and_its_files(
    make_spec, gate, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(make_spec()) as engine:
        (private,) = tmp_path.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == stat.S_IRWXU
        temporary = Path(f"/proc/{engine.pid}/environ").read_bytes().split(b"\0")
        assert f"TMPDIR={private}".encode() in temporary
        pid = engine.pid
        with gate.closed():
            held = busy(engine)
            engine.stop(0.1)
        with pytest.raises(UnavailableError, match="stopped before"):
            held.result(PATIENCE)
        with pytest.raises(UnavailableError, match="shutting down"):
            engine.submit([request()])
    assert not is_running(pid)
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # unclosed resources warn now


PARENT = """
import sys, threading
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process.process_engine import ProcessEngine

engine = ProcessEngine(EngineSpec({"lj": "toy:lennard-jones"}, "cpu"))
engine.start()
if sys.argv[1] == "ready":
    engine.wait_until_ready()
while engine.pid is None:
    pass
print(engine.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("moment", ["ready", "starting"])
def test_the_engine_process_exits_with_its_parent(tmp_path, moment):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PARENT, moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))
    assert list(Path(tmp_path).iterdir()) == []


def test_a_process_that_cannot_be_started_leaves_no_files_behind(make_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    engine = ProcessEngine(make_spec())
    engine.start()
    with pytest.raises(ModelLoadError, match="no process can be started"):
        engine.wait_until_ready(PATIENCE)
    engine.stop()
    assert list(tmp_path.iterdir()) == []
    # Other services of this process may close connections meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= n_open


@pytest.fixture
def many_files():
    """Occupy all file descriptors below 1100."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"no more than {hard} files may be open")
    opened = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        while not opened or opened[-1] < 1100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in opened:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_engine_starts_while_a_thousand_files_are_open(make_spec, many_files):
    del many_files
    with running(make_spec(models={"lj": "toy:lennard-jones"})) as engine:
        (prediction,) = results(engine, request(molecule(3, element=ARGON), model="lj"))
        assert prediction.energy < 0


def test_a_request_that_cannot_be_encoded_fails_alone():
    """No transport accepts such a request today."""
    ours, theirs = channel.pair()
    theirs.close()
    with pytest.raises(TypeError):
        requests_to_frames([(1, request(molecule(3), request_id="\ud800"))])
    sender = RequestSender(ours, None)
    good, bad = request(molecule(3)), request(molecule(3), request_id="\ud800")
    sender.submit([(1, good), (2, bad)])
    sender.send(messages.plain(messages.Kind.STOP))
    assert not good.future.done()
    with pytest.raises(ServiceError, match="internal error"):
        bad.future.result()
    ours.close()
