"""The simulation of fleets: its events, its replica, and the page that is made of its data."""

import json

import numpy as np
import pytest
from bench.runner.machine import ROOT
from bench.studies.scaling.events import Events
from bench.studies.scaling.fleet import Fleet, Home
from bench.studies.scaling.page import page
from bench.studies.scaling.parameters import Parameters, measured
from bench.studies.scaling.replica import BatchingReplica, SteppingWalker
from bench.studies.scaling.sticking import recovery
from bench.studies.scaling.zone_loss import loss

PARAMETERS = Parameters(fixed_s=1e-3, per_atom_s=1e-5, per_step_s=1e-4, client_s=5e-3)


def test_events_happen_in_the_order_of_their_time():
    events, seen = Events(), []
    for time in (3.0, 1.0, 2.0, 1.0):
        events.at(time, lambda time=time: seen.append((time, events.now)))
    events.after(1.5, lambda: events.after(1.0, lambda: seen.append((2.5, events.now))))
    events.run(2.75)
    assert seen == [(1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (2.5, 2.5)]
    assert events.now == 2.75


def steps_of(n_walkers, n_atoms, seconds=2.0):
    events = Events()
    replica = BatchingReplica(events, PARAMETERS)
    walkers = [
        SteppingWalker(events, replica, n_atoms, PARAMETERS.client_s, 0.0) for _ in range(n_walkers)
    ]
    events.run(seconds)
    return sum(each.n_steps for each in walkers) / seconds


def test_one_walker_waits_for_nobody():
    # 5 ms in the client, 0.1 ms in the service, 1 ms and 100 atoms of 0.01 ms on the device
    assert steps_of(1, 100.0) == pytest.approx(1.0 / 7.1e-3, rel=0.01)


def test_many_walkers_are_limited_by_the_device_or_by_the_service():
    # 200 walkers of 1000 atoms: batches of 20,000 atoms in 201 ms
    assert steps_of(200, 1000.0, 10.0) == pytest.approx(20.0 / 0.201, rel=0.05)
    assert steps_of(200, 1.0) == pytest.approx(1.0 / PARAMETERS.per_step_s, rel=0.02)


def test_the_parameters_are_those_that_were_measured():
    models = measured()
    assert models["PET"].per_atom_s > 5 * models["water"].per_atom_s
    for each in models.values():
        assert 0.0 < each.per_atom_s < each.per_step_s < each.fixed_s


def test_walkers_keep_their_number_and_their_atoms():
    fleet = Fleet(PARAMETERS, 10, seed=0, interval=30.0)
    for _ in range(200):
        fleet.arrive(duration=1e9)
    fleet.homes += [Home() for _ in range(10)]
    fleet.events.run(600.0)
    fleet.remove(fleet.homes[0])
    walkers = [walker for home in fleet.homes for walker in home.walkers]
    assert len(walkers) == len(set(walkers)) == 200
    assert fleet.n_moves > 20
    for home in fleet.homes:
        assert home.n_atoms == pytest.approx(sum(walker.n_atoms for walker in home.walkers))


def test_looks_make_steps_equal_sooner():
    found = recovery(PARAMETERS, 30, 1500, 15.0, seed=0)
    never, often = (
        found[f"two choices, {name}"]["mean_s"] for name in ("never looking", "a look every 5 min")
    )
    assert never[0] == pytest.approx(often[0], rel=0.05)
    assert often[-1] < 0.95 * never[-1]


def test_those_who_choose_by_lot_do_not_crowd():
    found = loss(PARAMETERS, 60, 6000, seed=0)
    assert found["the least loaded of all"]["fullest_over_mean"] > 2.0
    assert found["two choices"]["fullest_over_mean"] < 1.3
    assert found["at random"]["p99_s"] < found["at random, 8 s to connect"]["p99_s"]
    pauses = np.array([row["pauses_s"] for row in found.values()])
    assert (pauses.min(axis=1) >= 8.0).all()


def test_the_page_is_made_of_the_data():
    data = json.loads((ROOT / "docs" / "scaling" / "results.json").read_text())
    assert page(data) == (ROOT / "docs" / "scaling.md").read_text()
