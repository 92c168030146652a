"""Tests that callers, and the connections of each, get their shares of a simulated device."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.systems import molecule
from twinforce_service.callers.caller import Caller
from twinforce_service.scheduling.accounts import Accounts
from twinforce_service.scheduling.batch_queue import BatchQueue
from twinforce_service.scheduling.request import Limits, Request

ADA, BOB, EVE = Caller("ada"), Caller("bob"), Caller("eve")
OUTPUTS = frozenset({"energy"})
FIXED, PER_ATOM = 0.001, 7e-5


def request(caller=ADA, connection="", n_atoms=1, **values):
    model = values.pop("model", "a")
    made = Request(model, molecule(n_atoms), OUTPUTS, caller=caller, **values)
    made.connection = connection
    made.n_pairs = 50 * n_atoms
    return made


def queue_of(*requests, **limits):
    queue = BatchQueue(Limits(**limits))
    queue.extend(requests, 0.0)
    return queue


def names(taken):
    return " ".join(each.caller.name for each in taken.batch)


def connections(taken):
    return "".join(each.connection for each in taken.batch)


@dataclass
class Simulated:
    """A client that keeps calls of several systems in flight.

    Attributes:
        caller: Its caller.
        n_atoms: Atoms of each system.
        n_calls: Calls in flight.
        n_systems: Systems of each call.
        pause: Seconds between an answer and the next call.
        connection: Its connection.
        urgency: Urgency of its calls.
        model: Model that it calls.
        waits: Duration of each call.
        used: Device time, in s.
    """

    caller: Caller = ADA
    n_atoms: int = 192
    n_calls: int = 1
    n_systems: int = 1
    pause: float = 0.0005
    connection: str = ""
    urgency: int = 3
    model: str = "a"
    waits: list = field(default_factory=list)
    used: float = 0.0


def simulate(clients, seconds, **limits):
    """Let clients share a device for a time; return the sizes of the batches, in atoms."""
    queue = BatchQueue(Limits(**limits))
    systems = {client.n_atoms: molecule(client.n_atoms) for client in clients}
    now, arrivals, calls, sizes = 0.0, [], {}, []
    for client in clients:
        arrivals += [(0.0, client)] * client.n_calls
    while now < seconds:
        for at, client in [each for each in arrivals if each[0] <= now]:
            arrivals.remove((at, client))
            call = [at, client.n_systems]
            made = [
                Request(client.model, systems[client.n_atoms], OUTPUTS, caller=client.caller,
                        connection=client.connection, urgency=client.urgency,
                        n_pairs=50 * client.n_atoms)
                for _ in range(client.n_systems)
            ]  # fmt: skip
            calls.update((each, (client, call)) for each in made)
            queue.extend(made, now)
        batch = queue.next_batch(now).batch
        if not batch:
            now = min(at for at, _ in arrivals)
            continue
        sizes.append(sum(each.n_atoms for each in batch))
        took = FIXED + PER_ATOM * sizes[-1]
        now += took
        for each, part in zip(batch, queue.charge(batch, took), strict=True):
            client, call = calls.pop(each)
            client.used += part
            call[1] -= 1
            if not call[1]:
                client.waits.append(now - call[0])
                arrivals.append((now + client.pause, client))
        queue._budgets.costs.note(batch, took)
        queue._budgets.costs.learn()
    return sizes


def greedy(caller=EVE, connection="greedy", **values):
    return Simulated(caller, n_calls=16, n_systems=32, connection=connection, **values)


def test_a_batch_is_filled_from_all_callers_in_turn():
    waiting = [request(caller) for caller in (EVE, EVE, EVE, EVE, EVE, ADA, ADA, BOB)]
    queue = queue_of(*waiting, max_batch_atoms=4)
    assert names(queue.next_batch(0)) == "eve ada bob eve"
    assert names(queue.next_batch(0)) == "ada eve eve eve"
    assert names(queue.next_batch(0)) == ""


def test_a_caller_that_used_much_goes_last_whatever_model_it_asks_for():
    queue = queue_of(request(EVE), max_batch_atoms=1)
    queue.charge(queue.next_batch(0).batch, 10.0)
    queue.extend([request(EVE, model=name) for name in "abc"] + [request(ADA, model="c")], 0.0)
    assert [names(queue.next_batch(0)) for _ in range(2)] == ["ada", "eve"]


def test_the_connections_of_a_caller_share_its_part():
    waiting = [request(EVE, "x") for _ in range(4)] + [request(EVE, "y"), request(ADA, "z")]
    queue = queue_of(*waiting, max_batch_atoms=3)
    assert connections(queue.next_batch(0)) == "xzy"
    assert connections(queue.next_batch(0)) == "xxx"


@pytest.mark.parametrize("shares", [(1.0, 1.0), (3.0, 1.0), (0.5, 2.0)])
def test_busy_callers_get_device_time_by_their_shares(shares):
    clients = [
        Simulated(replace(caller, share=share), n_calls=16, n_systems=8, n_atoms=n_atoms)
        for caller, share, n_atoms in zip((ADA, BOB), shares, (192, 30), strict=True)
    ]
    simulate(clients, 20.0, max_batch_atoms=1000)
    assert clients[0].used / clients[1].used == pytest.approx(shares[0] / shares[1], rel=0.02)


def test_the_whole_device_is_used_whoever_asks():
    alone, beside = greedy(), greedy()
    simulate([alone], 10.0)
    polite = Simulated(ADA, pause=0.5)
    simulate([beside, polite], 10.0)
    assert beside.used + polite.used == pytest.approx(alone.used, rel=0.02)
    assert beside.used > 0.9 * alone.used


@pytest.mark.parametrize("caller", [ADA, EVE], ids=["another caller", "another connection"])
@pytest.mark.parametrize("n_atoms", [192, 5000])
@pytest.mark.parametrize("urgency", [3, 0])
def test_a_polite_client_waits_for_few_short_batches(caller, n_atoms, urgency):
    alone, polite = (Simulated(caller, connection="polite") for _ in range(2))
    simulate([alone], 5.0)
    other = greedy(n_atoms=n_atoms, urgency=urgency)
    sizes = simulate([other, polite], 20.0, max_waiting_atoms=10**7)
    one = FIXED + PER_ATOM * n_atoms
    # The rest of a batch and the next one; the first batches are not kept short.
    late = np.array(polite.waits[len(polite.waits) // 4 :])
    assert late.max() <= 2 * max(0.05, one) + alone.waits[0] + 0.001
    assert np.median(late) < 10 * np.median(alone.waits) or n_atoms > 192
    assert max(sizes[20:]) * PER_ATOM + FIXED <= max(0.05, one) * 1.001


def test_many_connections_of_one_caller_gain_nothing_over_another_caller():
    crowd = [Simulated(EVE, connection=str(i), n_systems=8) for i in range(50)]
    other = Simulated(ADA, n_calls=50, n_systems=8)
    simulate([*crowd, other], 20.0, max_batch_atoms=1000)
    assert sum(each.used for each in crowd) == pytest.approx(other.used, rel=0.02)


def test_an_idle_caller_saves_up_nothing():
    queue = BatchQueue(Limits(max_batch_atoms=1))
    for _ in range(100):
        queue.extend([request(ADA)], 0.0)
        queue.charge(queue.next_batch(0.0).batch, 1.0)
    queue.extend([request(caller) for caller in [BOB, ADA] * 20], 0.0)
    turns = []
    for _ in range(20):
        taken = queue.next_batch(0.0)
        turns.append(names(taken))
        queue.charge(taken.batch, 1.0)
    assert turns.count("bob") == pytest.approx(10, abs=1)


def test_urgency_orders_only_the_requests_of_one_connection():
    waiting = [request(EVE, "x", urgency=3, n_atoms=1), request(EVE, "x", urgency=0, n_atoms=2),
               request(ADA, "y", urgency=0, n_atoms=3), request(EVE, "z", n_atoms=4)]  # fmt: skip
    queue = queue_of(*waiting)
    assert [each.n_atoms for each in queue.next_batch(0).batch] == [2, 3, 4, 1]


def test_a_caller_that_may_be_urgent_goes_before_others_until_it_used_minutes_more():
    doctor = Caller("doctor", may_be_urgent=True)
    queue, turns = queue_of(request(doctor, urgency=1), request(ADA), max_batch_atoms=1), []
    for _ in range(30):
        (taken,) = queue.next_batch(0.0).batch
        turns.append(taken.caller.name)
        queue.extend([request(taken.caller, urgency=taken.urgency)], 0.0)
        queue.charge([taken], 10.0)
    first = turns.index("ada")
    assert turns[:first] == ["doctor"] * 12  # two levels are two minutes
    assert turns[first:].count("ada") == pytest.approx(len(turns[first:]) / 2, abs=1)


def test_a_normal_request_of_a_caller_that_may_be_urgent_waits_for_its_turn():
    doctor = Caller("doctor", may_be_urgent=True)
    queue = queue_of(request(ADA), request(doctor), max_batch_atoms=1)
    assert names(queue.next_batch(0)) == "ada"


def test_less_urgent_requests_give_way_to_other_callers_but_not_forever():
    patient = Simulated(ADA, urgency=4)
    other = Simulated(BOB, n_calls=4)
    simulate([patient, other], 200.0, max_batch_atoms=192)
    assert 2 <= len(patient.waits) <= 4
    alone = Simulated(ADA, urgency=7)
    simulate([alone], 1.0)
    assert max(alone.waits) < 0.02


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ADA, BOB, EVE, Caller("doctor", 2.0, True)]),
            st.sampled_from("xyz"),
            st.sampled_from("ab"),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_request_is_taken_once_in_whatever_order(given_requests):
    made = [
        request(caller, connection, n_atoms, model=model)
        for caller, connection, model, n_atoms in given_requests
    ]
    queue, taken = queue_of(*made, max_batch_atoms=50), []
    made[0].future.cancel()
    while queue:
        batch = queue.next_batch(0.0).batch
        taken += batch
        if batch:
            queue.charge(batch, 0.1)
    assert sorted(map(id, taken)) == sorted(map(id, made[1:]))
    assert queue.n_atoms == 0


def test_ten_thousand_callers_each_get_a_turn_before_any_gets_two():
    callers = [Caller(str(i)) for i in range(5000)]
    queue = queue_of(*(request(caller) for caller in callers * 2), max_batch_atoms=100,
                     max_waiting=10_000)  # fmt: skip
    first = [each.caller.name for _ in range(50) for each in queue.next_batch(0.0).batch]
    assert first == [caller.name for caller in callers]


def test_accounts_of_those_who_have_gone_are_forgotten():
    accounts = Accounts()
    for number in range(10_000):
        account = accounts.enter(number)
        account.n_waiting -= 1
        accounts.note_turn(account)
    assert len(accounts) < 200


def test_an_account_is_kept_while_it_has_used_more_than_its_share():
    accounts = Accounts()
    debtor = accounts.enter("debtor")
    debtor.n_waiting -= 1
    debtor.charge(5.0)
    for number in range(1000):
        accounts.enter(number).n_waiting -= 1
    assert accounts.get("debtor") is debtor


def test_an_estimate_that_was_too_high_is_given_back():
    accounts = Accounts()
    account = accounts.enter("ada", 2.0)
    account.charge(3.0)
    account.charge(-2.0)
    account.charge(1.5)
    account.charge(1.0)
    assert account.used == pytest.approx((3.0 - 2.0 + 1.5 + 1.0) / 2.0)


def answer(queue, again=()):
    """Evaluate a batch that takes as long as its atoms, and ask again for those of some callers."""
    batch = queue.next_batch(0.0).batch
    took = FIXED + PER_ATOM * sum(each.n_atoms for each in batch)
    queue.charge(batch, took)
    queue._budgets.costs.note(batch, took)
    queue._budgets.costs.learn()
    queue.extend([request(r.caller, r.connection, 8) for r in batch if r.caller in again], 0.0)
    return batch


@pytest.mark.parametrize(("caller", "connection"), [(ADA, ""), (EVE, "polite")])
def test_estimates_that_were_far_too_high_do_not_delay_others(caller, connection):
    queue = queue_of(max_batch_atoms=8)
    for n_atoms in (1, 2, 4, 8) * 8:
        queue.extend([request(BOB, n_atoms=n_atoms)], 0.0)
        answer(queue)
    dense = request(EVE, "dense")
    dense.n_pairs = 10**6
    queue.extend([dense, *(request(EVE, f"greedy {i}", 8) for i in range(8))], 0.0)
    for _ in range(20):
        answer(queue, again=[EVE])
    polite = request(caller, connection, 8)
    queue.extend([polite], 0.0)
    assert any(polite in answer(queue, again=[EVE]) for _ in range(40))


def test_a_batch_that_a_debtor_fills_up_does_not_delay_others():
    queue = queue_of(max_batch_atoms=8)
    debtor = request(BOB, n_atoms=100)
    queue.extend([debtor], 0.0)
    queue.charge(queue.next_batch(0.0).batch, 10.0)
    # Bob fills up a batch of Ada, while Eve waits for another model.
    queue.extend([request(EVE, n_atoms=8, model="b") for _ in range(100)], 0.0)
    queue.extend([request(ADA), request(BOB)], 0.0)
    while BOB not in {each.caller for each in answer(queue)}:
        pass
    polite = request(ADA)
    queue.extend([polite], 0.0)
    assert any(polite in answer(queue) for _ in range(3))


def test_the_connections_of_a_caller_take_turns_though_others_always_go_first():
    queue = queue_of(max_batch_atoms=64)
    queue.extend([request(ADA, n_atoms=4), request(BOB, "old", 8)], 0.0)
    for _ in range(50):  # Ada, who uses less, is first in each batch
        assert {ADA, BOB} <= {each.caller for each in queue.next_batch(0.0).batch}
        queue.extend([request(ADA, n_atoms=4), request(BOB, "old", 8)], 0.0)
    queue.extend([request(BOB, "new", 8) for _ in range(100)], 0.0)
    taken = [queue.next_batch(0.0) for _ in range(4)]
    assert any(each.connection == "old" for batch in taken for each in batch.batch)
