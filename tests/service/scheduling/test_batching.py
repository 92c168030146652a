import numpy as np
import pytest

from tests.systems import crystal, molecule
from twinforce_models.batch import Batch
from twinforce_models.neighbors.estimate import estimate_pairs
from twinforce_proto import (
    InvalidRequestError,
    OverloadedError,
    System,
    SystemTooLargeError,
)
from twinforce_service.scheduling.batch_queue import BatchQueue
from twinforce_service.scheduling.request import JacobianRequest, Limits, Request, check_sizes

ENERGY = frozenset({"energy"})
DIRECT = frozenset({"energy", "direct_forces"})
CONSERVATIVE = frozenset({"conservative_forces"})
STRESS = frozenset({"conservative_stress"})


def request(n_atoms=1, model="a", outputs=ENERGY, **values):
    return Request(model=model, system=molecule(n_atoms), outputs=outputs, **values)


def queue_of(*requests, now=0.0, **limits):
    queue = BatchQueue(Limits(**limits))
    queue.extend(requests, now)
    return queue


def sizes(taken):
    return [each.n_atoms for each in taken.batch]


def sizes_of(batch):
    return [each.n_atoms for each in batch]


def batches(queue, now=0.0):
    while queue:
        yield queue.next_batch(now).batch


def test_a_batch_holds_the_oldest_requests_within_the_limit_of_atoms():
    queue = queue_of(*map(request, (3, 5, 4, 5, 5, 1)), max_batch_atoms=20)
    assert sizes(queue.next_batch(0)) == [3, 5, 4, 5]
    assert sizes(queue.next_batch(0)) == [5, 1]
    assert queue.next_batch(0).batch == []


def test_a_batch_holds_the_oldest_requests_within_the_limit_of_pairs():
    queue = queue_of(*(request(n_pairs=n) for n in (60, 30, 20)), max_batch_pairs=100)
    assert [each.n_pairs for each in queue.next_batch(0).batch] == [60, 30]
    assert [each.n_pairs for each in queue.next_batch(0).batch] == [20]


@pytest.mark.parametrize("limit", [{"max_batch_atoms": 10}, {"max_batch_pairs": 10}])
def test_a_system_larger_than_a_batch_is_evaluated_alone(limit):
    queue = queue_of(*(request(n, n_pairs=n) for n in (2, 50, 1)), **limit)
    assert [sizes(queue.next_batch(0)) for _ in range(3)] == [[2, 1], [50], []]


def test_the_refusal_of_a_system_with_too_many_atoms_names_it():
    requests = [request(5, system_index=0), request(6, system_index=1)]
    with pytest.raises(SystemTooLargeError, match=r"systems\[1\]: expected at most 5 atoms, got 6"):
        check_sizes(requests, Limits(max_atoms_per_system=5))


def test_requests_of_different_models_share_no_batch():
    queue = queue_of(*(request(model=name) for name in "abab"))
    assert ["".join(each.model for each in batch) for batch in batches(queue)] == ["aa", "bb"]


def test_a_direct_prediction_does_not_wait_for_a_gradient():
    wanted = [ENERGY, CONSERVATIVE, DIRECT, CONSERVATIVE | DIRECT]
    queue = queue_of(*(request(outputs=outputs) for outputs in wanted))
    assert [[each.outputs for each in batch] for batch in batches(queue)] == [
        [ENERGY, DIRECT],
        [CONSERVATIVE, CONSERVATIVE | DIRECT],
    ]


def test_requests_with_and_without_a_stress_share_no_batch():
    queue = queue_of(*(request(outputs=outputs) for outputs in (CONSERVATIVE, STRESS)))
    assert [len(batch) for batch in batches(queue)] == [1, 1]


def test_no_model_starves_another():
    order = [*["busy"] * 3, "quiet", *["busy"] * 3]
    queue = queue_of(*(request(model=name) for name in order), max_batch_atoms=1)
    assert [batch[0].model for batch in batches(queue)] == order


def test_models_get_equal_device_time_rather_than_equal_turns():
    queue, turns = queue_of(max_batch_atoms=1), []
    seconds = {"slow": 1.0, "quick": 0.1}
    queue.extend([request(model=name) for name in seconds], 0.0)
    for _ in range(220):
        (taken,) = queue.next_batch(0.0).batch
        turns.append(taken.model)
        queue.extend([request(model=taken.model)], 0.0)  # a closed loop
        queue.charge([taken], seconds[taken.model])
    assert turns.count("slow") == pytest.approx(20, abs=2)
    assert turns.count("quick") == pytest.approx(200, abs=2)


def test_an_idle_model_does_not_save_up_device_time():
    queue, turns = queue_of(max_batch_atoms=1), []
    for _ in range(100):
        queue.extend([request(model="early")], 0.0)
        queue.charge(queue.next_batch(0.0).batch, 1.0)
    queue.extend([request(model=name) for name in ["late", "early"] * 20], 0.0)
    for _ in range(20):
        (taken,) = queue.next_batch(0.0).batch
        turns.append(taken.model)
        queue.charge([taken], 1.0)
    assert turns.count("late") == pytest.approx(10, abs=1)


def test_big_systems_do_not_starve_small_ones():
    queue, order = queue_of(*map(request, [60] * 5), max_batch_atoms=100), []
    queue.extend([request(1) for _ in range(3)], 0.0)
    while queue:
        taken = queue.next_batch(0.0).batch
        order.append(sizes_of(taken))
        queue.charge(taken, sum(sizes_of(taken)))
    assert order == [[60], [1, 1, 1], [60], [60], [60], [60]]


def test_a_long_jacobian_does_not_delay_walkers():
    def rows():
        return JacobianRequest("a", molecule(3), DIRECT, rows=range(12))

    queue, turns = queue_of(rows(), request(outputs=DIRECT)), []
    for _ in range(30):
        (taken,) = queue.next_batch(0.0).batch
        turns.append(type(taken))
        is_rows = isinstance(taken, JacobianRequest)
        queue.extend([rows() if is_rows else request(outputs=DIRECT)], 0.0)
        queue.charge([taken], 0.5 if is_rows else 0.05)
    assert turns.count(JacobianRequest) == pytest.approx(3, abs=1)


def test_the_earliest_deadline_is_first_and_no_request_waits_forever():
    none, far, near = request(1), request(2, deadline=50.0), request(3, deadline=0.5)
    queue = queue_of(none, far, near, max_batch_atoms=1)
    assert [sizes(queue.next_batch(0.0)) for _ in range(3)] == [[3], [1], [2]]
    patient = request(1)
    queue = queue_of(patient, now=0.0, max_batch_atoms=1)
    queue.extend([request(2, deadline=1.5)], 1.2)
    assert queue.next_batch(1.2).batch == [patient]


def test_urgent_requests_are_first_unless_others_have_waited_long():
    queue = queue_of(*(request(n, urgency=u) for n, u in ((1, 3), (2, 7), (3, 0), (4, 3))))
    assert sizes(queue.next_batch(0)) == [3, 1, 4, 2]
    queue = queue_of(request(1), max_batch_atoms=3)
    queue.extend([request(2, urgency=2), request(3, urgency=2)], now=59.0)
    assert [sizes_of(each) for each in batches(queue, 59)] == [[2], [3], [1]]
    queue = queue_of(request(1), max_batch_atoms=3)
    queue.extend([request(2, urgency=2), request(3, urgency=2)], now=61.0)
    assert sizes(queue.next_batch(61)) == [1, 2]


@pytest.mark.parametrize(("used", "order"), [(59.0, [2, 1]), (61.0, [1, 2])])
def test_less_urgent_requests_are_last_until_others_have_used_the_device_for_long(used, order):
    queue = queue_of(request(1, urgency=4), request(2), max_batch_atoms=2)
    taken = queue.next_batch(0.0).batch
    assert sizes_of(taken) == [2]
    queue.charge(taken, used)
    queue.extend([request(2)], now=1.0)
    assert [n for batch in batches(queue, 1.0) for n in sizes_of(batch)] == order


def test_the_earliest_deadline_is_first_among_equally_urgent_requests():
    queue = queue_of(
        request(1, urgency=2), request(2, urgency=2, deadline=0.5), request(3, deadline=0.1)
    )
    assert sizes(queue.next_batch(0)) == [2, 1, 3]


def test_a_canceled_request_is_not_evaluated():
    gone = request(9)
    queue = queue_of(request(4), gone, request(5), max_batch_atoms=10)
    gone.future.cancel()
    assert sizes(queue.next_batch(0)) == [4, 5]
    assert len(queue) == queue.n_atoms == 0


def test_expired_requests_are_returned_separately():
    late, early, patient = request(1, deadline=5.0), request(2, deadline=7.0), request(3)
    queue = queue_of(late, early, patient)
    taken = queue.next_batch(now=6.0)
    assert taken.batch == [early, patient]
    assert taken.expired == [late]


def test_expired_requests_take_no_room_in_the_batch():
    sizes_of_others = [5, 5, 5, 4, 1]
    queue = queue_of(request(5, deadline=1.0), *map(request, sizes_of_others), max_batch_atoms=20)
    assert sizes(queue.next_batch(now=2.0)) == sizes_of_others


def test_a_group_of_expired_requests_does_not_hide_the_next_group():
    queue = queue_of(request(model="a", deadline=1.0), request(model="b"))
    taken = queue.next_batch(now=2.0)
    assert [each.model for each in taken.batch] == ["b"]
    assert [each.model for each in taken.expired] == ["a"]


def test_a_request_in_a_batch_can_no_longer_be_canceled():
    queue = queue_of(request())
    (taken,) = queue.next_batch(0).batch
    assert not taken.future.cancel()


def test_a_full_queue_refuses_whole_calls_with_a_delay_for_the_retry():
    queue = queue_of(request(), request(), max_waiting=3)
    with pytest.raises(OverloadedError, match="2 systems of 2 atoms are already") as refused:
        queue.extend([request(), request()], 0, retry_after=2.5)
    assert refused.value.retry_after == 2.5
    assert len(queue) == 2
    queue.extend([request()], 0)


def test_canceled_requests_make_room_in_a_full_queue():
    gone, kept = request(5), request(2)
    queue = queue_of(gone, kept, max_waiting=2)
    gone.future.cancel()
    queue.extend([request(1)], 0)
    assert (len(queue), queue.n_atoms) == (2, 3)
    assert sizes(queue.next_batch(0)) == [2, 1]


def test_a_queue_full_of_atoms_accepts_no_requests_until_some_leave():
    queue = queue_of(request(7), max_waiting_atoms=10)
    with pytest.raises(OverloadedError, match="1 systems of 7 atoms are already waiting"):
        queue.extend([request(2), request(2)], 0.0)
    assert queue.n_atoms == 7
    queue.next_batch(0)
    queue.extend([request(6), request(6)], 0.0)
    assert queue.n_atoms == 12


def test_a_call_with_more_systems_than_the_queue_can_hold_is_invalid():
    with pytest.raises(InvalidRequestError, match="expected at most 2 in one call, got 3"):
        check_sizes([request() for _ in range(3)], Limits(max_waiting=2))


def test_a_request_records_the_time_of_its_admission():
    queue = queue_of(request(), now=42.0)
    assert queue.next_batch(43.0).batch[0].submitted_at == 42.0


def test_clearing_returns_the_waiting_requests_oldest_first():
    requests = [request(n, model=name) for n, name in enumerate("abcab", start=1)]
    queue = queue_of(*requests)
    requests[1].future.cancel()
    assert queue.clear() == [requests[0], *requests[2:]]
    assert len(queue) == queue.n_atoms == 0


def counted_pairs(system, cutoff):
    return Batch.from_systems([system], cutoff).n_pairs


def slab(vacuum):
    whole = crystal(64)
    cell = whole.cell.copy()
    cell[2, 2] += vacuum
    return whole.moved(whole.positions, cell)


def cluster(n_atoms, far=0.0, cell=None):
    """Return atoms within 3 Å of each other, except the last, which is `far` Å away."""
    positions = np.random.default_rng(0).uniform(0, 1.7, (n_atoms, 3))
    positions[-1, 0] += far
    return System(np.ones(n_atoms), positions, cell, pbc=cell is not None)


@pytest.mark.parametrize(
    ("system", "tolerance"),
    [
        (crystal(64), 1.3),
        (crystal(1), 1.5),
        (slab(200.0), 3.0),
        (molecule(64), 2.0),
        (molecule(2), 1.0),
        (System([18], [[0.0, 0.0, 0.0]], np.diag([2.0, 2.0, 0.0]), [True, True, False]), 2.0),
        (System([1], [[0.0, 0.0, 0.0]], np.diag([0.2, 0.2, 1000.0]), pbc=True), 2.0),
        (System([1], [[0.0, 0.0, 0.0]], [[1, 0, 0], [0, 1, 0], [0, 1000, 1]], pbc=True), 2.0),
        (cluster(300), 1.0),
        (cluster(300, far=1000.0), 1.1),
        (cluster(300, cell=np.eye(3) * 40), 5.0),
    ],
    ids=[
        "crystal", "one atom", "slab in vacuum", "molecule", "dimer", "layer", "thin cell",
        "skewed cell", "cluster", "cluster and a distant atom", "cluster in a cell",
    ],
)  # fmt: skip
def test_pairs_are_estimated_from_the_density_of_the_atoms(system, tolerance):
    counted, estimated = counted_pairs(system, 6.0), estimate_pairs(system, 6.0)
    assert counted / tolerance <= estimated <= counted * tolerance


def test_a_lone_atom_has_no_pairs():
    assert estimate_pairs(molecule(1), 5.0) == 0


def test_requests_that_are_put_back_are_never_refused_and_count_as_waiting():
    queue = queue_of(request(3), request(2), max_waiting=2)
    assert sizes(queue.next_batch(0)) == [3, 2]
    assert queue.n_left == (2, 5)
    queue.put_back([request(5), request(4), request(6)], 1.0)
    assert (queue.n_requests, queue.n_atoms, queue.n_left) == (3, 15, (-1, -10))
    with pytest.raises(OverloadedError):
        queue.extend([request()], 1.0)
    assert sizes(queue.next_batch(1.0)) == [5, 4, 6]
    assert queue.n_left == (2, 5)
