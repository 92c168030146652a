"""Tests that a prediction does not depend on the kind of call or on concurrent requests."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.clients.serving import ARGON, TOY, serve
from tests.systems import crystal, molecule
from twinforce import AsyncClient, Client, System
from twinforce_models.prediction import predict
from twinforce_models.registry import load

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
BOTH_FORCES = ("energy", "atom_energies", "conservative_forces", "direct_forces")
STRESSES = ("conservative_stress", "direct_stress")


@pytest.fixture(scope="module", params=sorted(TOLERANCE))
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def server(dtype):
    with serve(dtype=dtype) as running:
        yield running


@pytest.fixture(scope="module")
def potential(dtype):
    return load(TOY, device="cpu", dtype=dtype).potential


def box(seed, cell, pbc=True):
    return System(np.full(8, ARGON), molecule(8, seed).positions, cell, pbc)


def mixed_systems():
    """Return systems that batches tend to get wrong, by a description."""
    cube = 7.2 * np.eye(3)
    skewed = np.array([[7.2, 0.0, 0.0], [5.5, 7.2, 0.0], [-3.0, 2.0, 7.2]])
    far_away = box(6, cube)
    return {
        "molecule": molecule(8, seed=1),
        "larger molecule": molecule(30, seed=2),
        "one atom": molecule(1),
        "two atoms out of reach of each other": System([ARGON, ARGON], [[0, 0, 0], [50.0, 0, 0]]),
        "crystal": box(3, cube),
        "skewed": box(4, skewed),
        "left-handed": box(5, 7.2 * np.diag([1.0, 1.0, -1.0])),
        "far smaller than the cutoff": System([ARGON], [[0, 0, 0]], 3.8 * np.eye(3), pbc=True),
        "unwrapped": far_away.moved(far_away.positions + 100.0),
        "slab": box(7, cube, pbc=[True, True, False]),
        "molecule that carries a cell": box(8, cube, pbc=False),
    }


def outputs_for(system):
    return BOTH_FORCES + STRESSES if system.cell.any() else BOTH_FORCES


def in_one_request(url, systems, **options):
    with Client(url, **options) as client:
        return client.predict(systems, BOTH_FORCES)


def stresses_in_one_request(url, systems, **options):
    with Client(url, **options) as client:
        with_cell = [system for system in systems if system.cell.any()]
        answers = iter(client.predict(with_cell, BOTH_FORCES + STRESSES))
        return [
            next(answers) if system.cell.any() else client.predict(system, BOTH_FORCES)
            for system in systems
        ]


def one_by_one(url, systems, **options):
    with Client(url, **options) as client:
        return [client.predict(system, outputs_for(system)) for system in systems]


def over_a_stream(url, systems, **options):
    with Client(url, **options) as client, client.stream() as stream:
        return [stream.predict(system, outputs_for(system)) for system in systems]


def with_asyncio(url, systems, **options):
    async def predict_all():
        async with AsyncClient(url, **options) as client:
            calls = (client.predict(system, outputs_for(system)) for system in systems)
            return await asyncio.gather(*calls)

    return asyncio.run(predict_all())


def over_an_asyncio_stream(url, systems, **options):
    async def predict_all():
        async with AsyncClient(url, **options) as client, client.stream() as stream:
            return [await stream.predict(system, outputs_for(system)) for system in systems]

    return asyncio.run(predict_all())


WAYS = [
    in_one_request,
    stresses_in_one_request,
    one_by_one,
    over_a_stream,
    with_asyncio,
    over_an_asyncio_stream,
]


def assert_same(prediction, alone, tolerance):
    compared = 0
    for name in BOTH_FORCES + STRESSES:
        value = getattr(prediction, name)
        if value is not None:
            np.testing.assert_allclose(value, getattr(alone, name), rtol=tolerance, atol=tolerance)
            compared += 1
    assert compared >= len(BOTH_FORCES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wire", ["grpc", "protobuf", "json"])
def test_every_kind_of_call_returns_the_prediction_of_the_system_alone(
    server, potential, dtype, way, wire
):
    systems = list(mixed_systems().values())
    if wire == "grpc":
        answers = way(server.grpc_url, systems)
    else:
        answers = way(server.rest_url, systems, encoding=wire)
    assert len(answers) == len(systems)
    for system, answer in zip(systems, answers, strict=True):
        (alone,) = predict(potential, [system], outputs_for(system))
        assert_same(answer, alone, TOLERANCE[dtype])
        assert answer.provenance.dtype == dtype


def test_concurrent_clients_get_their_own_predictions(server, potential, dtype):
    systems = list(mixed_systems().values())
    alone = [predict(potential, [each], outputs_for(each))[0] for each in systems]

    def ask(number):
        url = server.grpc_url if number % 2 else server.rest_url
        order = np.random.default_rng(number).permutation(len(systems))
        way = (one_by_one, over_a_stream)[number // 2 % 2]
        return order, way(url, [systems[i] for i in order])

    with ThreadPoolExecutor(8) as threads:
        for order, answers in threads.map(ask, range(8)):
            for i, answer in zip(order, answers, strict=True):
                assert_same(answer, alone[i], TOLERANCE[dtype])


def test_clients_that_request_different_outputs_share_the_service(server, potential, dtype):
    requested = [("energy",), ("direct_forces",), ("conservative_forces",), ("hybrid",)]
    systems = [crystal(seed=seed) for seed in range(8)]

    def ask(number):
        outputs = requested[number % len(requested)]
        with Client(server.grpc_url) as client:
            return [client.predict(system, outputs) for system in systems]

    alone = predict(potential, systems, BOTH_FORCES)
    with ThreadPoolExecutor(8) as threads:
        for number, answers in enumerate(threads.map(ask, range(8))):
            for answer, expected in zip(answers, alone, strict=True):
                present = {name for name in BOTH_FORCES if getattr(answer, name) is not None}
                outputs = requested[number % len(requested)]
                hybrid = {"energy", "conservative_forces", "direct_forces"}
                assert present == (hybrid if outputs == ("hybrid",) else set(outputs))
                for name in present:
                    np.testing.assert_allclose(
                        getattr(answer, name),
                        getattr(expected, name),
                        rtol=TOLERANCE[dtype],
                        atol=TOLERANCE[dtype],
                    )


def test_float32_replies_are_rounded_float64_results(server, potential, dtype):
    system = crystal()
    (alone,) = predict(potential, [system], BOTH_FORCES)
    for url in (server.grpc_url, server.rest_url):
        with Client(url, reply_dtype="float32") as client, client.stream() as stream:
            for answer in (client.predict(system), stream.predict(system)):
                forces = answer.conservative_forces
                rounded = alone.conservative_forces.astype(np.float32)
                np.testing.assert_allclose(forces, rounded, rtol=2e-7, atol=TOLERANCE[dtype])
