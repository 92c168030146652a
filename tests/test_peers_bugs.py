"""End-to-end tests, with real services and clients, of bugs that were reported in similar projects.

Each test names the report it comes from. Bugs that concern one package alone are tested there:
neighbor lists in tests/models, batches and shutdown in tests/service. Errors in batches of unusual
systems (nvalchemi-toolkit#106, torch-sim#575, fairchem#2134, ...) are in tests/test_same_answer.py.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx2
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from tests.clients.serving import serve
from tests.potentials import ARGON, NEON, Gated, NonFinite, Raising, Soft, WithoutDirect, loaded
from tests.systems import crystal, molecule
from twinforce import (
    Client,
    DeadlineExceededError,
    NonFinitePredictionError,
    OverloadedError,
    PredictionError,
    UnavailableError,
    UnsupportedOutputError,
)
from twinforce._conversation import Conversation, Options, Pause
from twinforce._transports.transport import Call
from twinforce.ase import TwinForceCalculator
from twinforce_models.potential import Heads

BOTH = ("energy", "conservative_forces", "direct_forces")


@pytest.fixture(params=["grpc", "rest"])
def url_of(request):
    return lambda server: server.grpc_url if request.param == "grpc" else server.rest_url


class Drifting(Soft):
    """A potential whose direct forces have a net force, different for each system."""

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        if not direct:
            return heads
        push = torch.zeros_like(batch.positions)
        push[:, 0] = 1.0 + batch.system_index
        return Heads(heads.atom_energies, heads.direct_forces + push, heads.direct_stress)


def wait_until(condition, seconds=60.0):
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("potential", "error"), [(Raising, PredictionError), (NonFinite, NonFinitePredictionError)]
)
def test_a_bad_input_does_not_end_the_service(url_of, potential, error):
    """From michaelfeil/infinity: the worker thread died, and all later requests hung."""
    good, bad = molecule(4), molecule(4, element=NEON)
    with serve({"odd": loaded(potential())}) as server, Client(url_of(server)) as client:
        expected = client.predict(good).energy

        def ask(number):
            if number % 4:
                return client.predict(good).energy
            with pytest.raises(error):
                client.predict(bad)
            return expected

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, range(40))) == pytest.approx([expected] * 40)
        with client.stream() as stream:
            assert stream.predict(good).energy == pytest.approx(expected)
            with pytest.raises(error):
                stream.predict(bad)
            assert stream.predict(good).energy == pytest.approx(expected)


def test_a_missing_head_is_an_error_instead_of_nan(url_of):
    """From the metatomic driver of i-PI, which passes NaN on as the stress."""
    with serve({"plain": loaded(WithoutDirect())}) as server, Client(url_of(server)) as client:
        with pytest.raises(UnsupportedOutputError, match="no conservative_stress; it has energy"):
            client.predict(crystal(), ["energy", "conservative_stress"])
        with pytest.raises(UnsupportedOutputError, match="no direct_forces"):
            client.predict(crystal(), "hybrid")
        system = crystal()
        atoms = Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=True)
        atoms.calc = TwinForceCalculator(client)
        with pytest.raises(PropertyNotImplementedError, match="no conservative_stress; it has"):
            atoms.get_stress()
        atoms.calc = TwinForceCalculator(client, force_kind="direct")
        with pytest.raises(UnsupportedOutputError, match="no direct_forces"):
            atoms.get_forces()


def test_the_net_force_is_removed_from_each_system_and_not_from_the_batch(url_of):
    """From the metatomic style of LAMMPS, which removes no net force."""
    systems = [molecule(n, seed=n) for n in (2, 7, 3)]
    with serve({"drifting": loaded(Drifting())}) as server, Client(url_of(server)) as client:
        for prediction in client.predict(systems, BOTH):
            for forces in (prediction.conservative_forces, prediction.direct_forces):
                np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-12)


def test_clients_retry_when_the_queue_is_full(url_of):
    """From NeMo-Retriever#1077: a full queue was reported as 500 and 503, like a failure."""
    potential = Gated()
    with (
        serve({"gated": loaded(potential)}, max_waiting=1) as server,
        ThreadPoolExecutor(3) as threads,
        Client(url_of(server)) as client,
    ):

        def ask():
            answers.append(threads.submit(client.predict, molecule(), BOTH, "gated"))

        answers = []
        ask()
        for _ in range(3):  # two were the warm-up
            assert potential.entered.acquire(timeout=60)
        ask()
        wait_until(lambda: metric(server, "twinforce_queue_requests") == 1)
        ask()
        wait_until(lambda: n_outcomes(server, "OverloadedError") > 0)
        potential.gate.release(1000)
        assert all(answer.result(60).energy is not None for answer in answers)
        assert n_outcomes(server, "ok") == 3


def test_requests_whose_clients_gave_up_are_not_computed(url_of):
    """From vllm#54947 and triton server#7532: requests of disconnected clients were computed."""
    potential = Gated()
    with (
        serve({"gated": loaded(potential)}) as server,
        ThreadPoolExecutor(1) as threads,
        Client(url_of(server)) as client,
        Client(url_of(server), timeout=2.0) as impatient,
    ):
        first = threads.submit(client.predict, molecule(5), BOTH, "gated")
        for _ in range(3):  # two were the warm-up
            assert potential.entered.acquire(timeout=60)
        with pytest.raises(DeadlineExceededError):
            impatient.predict(molecule(9), BOTH, "gated")
        with impatient.stream("gated") as stream, pytest.raises(DeadlineExceededError):
            stream.predict(molecule(11))
        wait_until(lambda: n_outcomes(server, "") == 2)  # the service has dropped both, too
        potential.gate.release(1000)
        assert first.result(60).energy is not None
        assert client.predict(molecule(4), BOTH, "gated").energy is not None
        assert not {9, 11} & {n for batch in potential.batches for n in batch}


def metric(server, name, label=""):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    found = (line for line in lines if line.startswith(name) and label in line)
    return sum(float(line.rpartition(" ")[2]) for line in found)


def n_outcomes(server, outcome):
    """Return the number of calls whose outcome starts with this text."""
    return metric(server, "twinforce_requests_total", f'outcome="{outcome}')


def test_the_retries_of_clients_are_spread_out(monkeypatch):
    """From ray#21425: all clients retried at the same moment, repeatedly."""
    now = 0.0
    monkeypatch.setattr("twinforce._retries.time.monotonic", lambda: now)
    first = []
    for _ in range(200):
        began, attempts = now, []
        for pause in pauses_of(UnavailableError("gone"), Options()):
            assert pause <= min(max(0.1, (now - began) / 4), 5.0) + 1e-9
            now += pause
            attempts.append(now - began)
        assert 55.0 < attempts[-1] < 60.0  # the timeout
        first.append(attempts[0])
    assert len(set(first)) > 150
    assert np.ptp(first) > 0.05


def test_clients_retry_no_sooner_than_the_service_asks():
    first = [backoff_of(OverloadedError("full", retry_after=2.0), Options(), 1) for _ in range(50)]
    assert np.min(first) >= 2.0
    assert np.ptp(first) > 0.05
    assert backoff_of(OverloadedError("full"), Options()) == []
    assert backoff_of(OverloadedError("full", retry_after=2.0), Options(timeout=1.0)) == []


def backoff_of(error, options, n_pauses=None):
    """Return the pauses of a client before its retries, if every attempt ends with this error."""
    return list(islice(pauses_of(error, options), n_pauses))


def pauses_of(error, options):
    flow = Conversation(options).predict([molecule()], "energy", "lj")
    step = next(flow)
    while True:
        assert isinstance(step, Call)
        try:
            step = flow.throw(error)
        except type(error):
            return
        assert isinstance(step, Pause)
        yield step.seconds
        step = flow.send(None)


def test_predictions_do_not_depend_on_other_systems_in_the_batch(url_of):
    """From quacc#3228 and others: results must not depend on concurrent requests."""
    systems = [molecule(n, seed=n, element=random.choice([ARGON, NEON])) for n in range(1, 20)]
    with serve({"soft": loaded(Soft())}) as server, Client(url_of(server)) as client:
        alone = [client.predict(system, BOTH) for system in systems]
        together = client.predict(systems, BOTH)
        for one, other in zip(alone, together, strict=True):
            assert one.energy == pytest.approx(other.energy, abs=1e-10)
            for name in BOTH[1:]:
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-10)
