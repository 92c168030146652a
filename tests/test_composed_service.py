"""Tests of a service of a composed hybrid model."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest

from tests.clients.serving import serve
from tests.potentials import Gated, Soft, loaded
from tests.systems import crystal, molecule
from twinforce import Client
from twinforce.cli import run
from twinforce_models.potentials.composed import Composed
from twinforce_models.registry import load

PATIENCE = 60.0
QUEUE = "twinforce_queue_requests"
SPEC = "conservative:water+direct:toy:lennard-jones"
WATERS = crystal(3, element=8), crystal(4, element=1)
OF_ENERGY = ("energy", "conservative_forces", "conservative_stress")
OF_DIRECT = ("direct_forces", "direct_stress")


@pytest.fixture(scope="module")
def server():
    models = {"mix": SPEC, "toy": "toy:lennard-jones", "water": "water"}
    with serve(model=models, dtype="float32") as server:
        yield server


@pytest.mark.parametrize("wire", ["grpc", "protobuf", "json"])
def test_a_composed_model_predicts_the_same_as_its_parts(server, wire):
    options = {} if wire == "grpc" else {"encoding": wire}
    url = server.grpc_url if wire == "grpc" else server.rest_url
    with Client(url, **options) as client:
        together = client.predict(WATERS, OF_ENERGY + OF_DIRECT, "mix")
        for model, names in (("water", OF_ENERGY), ("toy", OF_DIRECT)):
            alone = client.predict(WATERS, names, model)
            for one, other in zip(together, alone, strict=True):
                for name in names:
                    np.testing.assert_allclose(
                        getattr(one, name), getattr(other, name), rtol=1e-5, atol=2e-5
                    )
        provenance = together[0].provenance
        info = client.model("mix")
    assert provenance.model == "mix"
    assert (provenance.version, provenance.sha256) == (info.version, info.sha256)
    assert info.metadata["conservative"]["name"] == "water"
    assert info.metadata["direct"]["sha256"] == load("toy:lennard-jones").info.sha256


def test_a_composed_model_is_listed_with_its_parts(server, capsys):
    assert run(["models", "--url", server.grpc_url]) == 0
    listed = capsys.readouterr().out
    assert "hybrid_net+toy:lennard-jones" in listed
    assert run(["models", "mix", "--url", server.grpc_url]) == 0
    assert "direct ones those of toy:lennard-jones 1" in capsys.readouterr().out


def waiting(server):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(each.split()[-1]) for each in lines if each.startswith(QUEUE))


def test_requests_in_a_batch_are_evaluated_only_by_the_heads_they_need():
    energy, direct = Gated(), Soft()
    models = {"mix": loaded(Composed(energy, direct))}
    with serve(models) as server, Client(server.grpc_url) as client, ThreadPoolExecutor(3) as pool:
        n_direct = len(direct.batches)
        try:
            held = pool.submit(client.predict, molecule(1), "energy", "mix")
            for _ in range(3):  # two for the warm-up
                assert energy.entered.acquire(timeout=PATIENCE)
            requests = [
                pool.submit(client.predict, molecule(n), outputs, "mix")
                for n, outputs in ((2, "energy"), (3, "direct_forces"))
            ]
            deadline = time.monotonic() + PATIENCE
            while waiting(server) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            energy.gate.release(1000)
        assert all(each.result(PATIENCE) for each in [held, *requests])
        assert requests[0].result().timings.batch_n_systems == 2
    assert energy.batches[2:] == [(1,), (2,)]
    assert direct.batches[n_direct:] == [(3,)]
