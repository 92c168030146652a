"""Tests of relaxations on the server."""

import asyncio
from contextlib import closing

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import BFGS

from tests.clients.proxy import CountingProxy
from tests.clients.serving import ARGON, port_of, serve
from tests.potentials import NEON, NonFinite, WithoutDirect, loaded
from tests.service.calls.conftest import argon
from tests.systems import crystal
from twinforce import (
    AsyncClient,
    Client,
    InvalidRequestError,
    PredictionError,
    SystemTooLargeError,
    UnsupportedOutputError,
)
from twinforce.ase import TwinForceCalculator


@pytest.mark.parametrize("force_kind", ["hybrid", "conservative"])
def test_a_relaxation_ends_where_the_gradient_vanishes(client, force_kind):
    *_, last = client.relax(argon(), force_kind=force_kind, fmax=1e-3)
    assert (last.is_converged, last.is_last, last.driven_by) == (True, True, "conservative")
    prediction = client.predict(argon().moved(last.positions))
    largest = np.linalg.norm(prediction.conservative_forces, axis=1).max()
    assert largest <= 1e-3
    assert largest == pytest.approx(last.largest_force, rel=1e-6)
    assert prediction.energy == pytest.approx(last.energy, abs=1e-9)
    assert last.energy < client.predict(argon()).energy


def test_a_hybrid_relaxation_begins_with_direct_forces(client):
    reports = list(client.relax(argon(), fmax=1e-3, interval=1))
    kinds = [each.driven_by for each in reports]
    assert kinds == sorted(kinds, reverse=True)  # direct, then conservative
    assert set(kinds) == {"direct", "conservative"}
    assert [each.step for each in reports] == list(range(len(reports)))
    assert [each.is_last for each in reports] == [False] * (len(reports) - 1) + [True]


def test_the_minimum_is_that_of_another_optimizer(server):
    """BFGS of ASE, started nearby, ends at the same energy."""
    system = argon()
    with Client(server.grpc_url) as client:
        *_, last = client.relax(system, fmax=1e-4, max_steps=2000, force_kind="conservative")
    atoms = Atoms(
        numbers=system.atomic_numbers, positions=last.positions + 0.01, cell=system.cell, pbc=True
    )
    atoms.rattle(0.01, seed=1)
    with TwinForceCalculator(server.grpc_url) as atoms.calc:
        BFGS(atoms, logfile=None).run(fmax=1e-4, steps=500)
        assert atoms.get_potential_energy() == pytest.approx(last.energy, abs=1e-5)


def test_a_relaxation_by_direct_forces_ends_where_they_vanish(client):
    *_, last = client.relax(argon(), force_kind="direct", fmax=0.02, max_steps=400)
    assert last.driven_by == "direct"
    prediction = client.predict(argon().moved(last.positions), "direct_forces")
    largest = np.linalg.norm(prediction.direct_forces, axis=1).max()
    assert largest == pytest.approx(last.largest_force, rel=1e-6)
    assert last.is_converged is bool(largest <= 0.02)


def test_fixed_atoms_stay_and_their_forces_do_not_count(client):
    *_, last = client.relax(argon(), fixed_atoms=[0, 3], fmax=1e-3)
    assert (last.positions[[0, 3]] == argon().positions[[0, 3]]).all()
    prediction = client.predict(argon().moved(last.positions))
    sizes = np.linalg.norm(prediction.conservative_forces, axis=1)
    assert last.is_converged
    assert sizes[[1, 2, 4, 5, 6, 7]].max() <= 1e-3 < sizes[[0, 3]].max()


def test_a_relaxation_ends_after_max_steps(client):
    reports = list(client.relax(argon(), fmax=1e-9, max_steps=7, interval=3))
    assert [each.step for each in reports] == [0, 3, 6, 7]
    assert (reports[-1].is_last, reports[-1].is_converged) == (True, False)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"fmax": 0.0}, "fmax"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 10**7}, "max_steps"),
        ({"interval": -1}, "interval"),
        ({"force_kind": "both"}, "force_kind"),
        ({"fixed_atoms": [9]}, "fixed_atoms"),
    ],
)
def test_an_invalid_request_is_refused(client, given, field):
    with pytest.raises(InvalidRequestError) as caught:
        list(client.relax(argon(), **given))
    assert caught.value.field == field


def test_a_model_without_the_forces_or_with_invalid_ones_is_an_error():
    models = {"soft": loaded(WithoutDirect()), "bad": loaded(NonFinite(), "bad")}
    with serve(models) as server, Client(server.grpc_url) as client:
        with pytest.raises(UnsupportedOutputError, match="direct_forces"):
            list(client.relax(crystal(), model="soft"))
        with pytest.raises((PredictionError, SystemTooLargeError)):
            list(client.relax(crystal(element=NEON), model="bad"))
        *_, last = client.relax(crystal(element=ARGON), model="soft", force_kind="conservative")
        assert last.is_last


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_client_resumes_from_the_last_report_after_a_lost_connection(server, transport):
    url = server.grpc_url if transport == "grpc" else server.rest_url
    proxy = CountingProxy(port_of(url), cut_after=[6_000])
    url_of_proxy = f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}"
    with closing(proxy), Client(url_of_proxy, max_retries=8) as client:
        reports = client.relax(argon(), fmax=1e-9, max_steps=60, interval=1, model="lj")
        steps = [each.step for each in reports]
    assert proxy.n_connections >= 2
    assert sorted(set(steps)) == list(range(61))


def test_an_async_client_relaxes_several_systems_at_once(server):
    async def end(client, fmax):
        return [each async for each in client.relax(argon(), fmax=fmax)][-1]

    async def ends():
        async with AsyncClient(server.grpc_url) as client:
            return await asyncio.gather(*(end(client, fmax) for fmax in (0.1, 0.01, 0.001)))

    assert all(each.is_converged for each in asyncio.run(ends()))
