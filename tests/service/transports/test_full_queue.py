"""Tests that a caller who keeps the queue full does not keep others out."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import httpx2
import pytest

from tests.conftest import free_ports
from tests.potentials import Gated, loaded
from tests.service.callers.making import add_key
from tests.service.transports.rest_bodies import json_body, protobuf_body
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

PATIENCE = 60.0
N_PLACES, N_POLITE = 6, 10
MESSAGE = pb.PredictRequest.FromString(protobuf_body(molecule(2), outputs=["energy"]))


class Crowd:
    """Threads that each repeat a call, refused or not, until they are told to stop."""

    def __init__(self, n_threads, call):
        self.n_refused = 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=[call]) for _ in range(n_threads)]

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for each in self._threads:
            each.join()

    def _loop(self, call):
        while not self._is_over.is_set():
            if not call():
                self.n_refused += 1


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_greedy_caller_keeps_the_queue_full_and_a_polite_one_gets_in_each_time(
    transport, tmp_path
):
    file = tmp_path / "keys.json"
    greedy_key, polite_key = add_key(file, "greedy"), add_key(file, "polite")
    potential = Gated()
    settings = free_ports(keys=str(file), max_waiting=N_PLACES, engine="thread")
    with ExitStack() as stack:
        server = stack.enter_context(run_in_thread(settings, lambda: {"soft": loaded(potential)}))
        url = f"{server.rest_url}/v1/models/soft/predict"
        body = json_body(molecule(2), outputs=["energy"])
        http = stack.enter_context(httpx2.Client(timeout=PATIENCE))

        def is_taken(key=greedy_key):
            """Send a call over REST; return whether it was answered."""
            headers = {"authorization": f"Bearer {key}"}
            status = http.post(url, json=body, headers=headers).status_code
            assert status in (200, 429)
            return status == 200

        stub = stack.enter_context(stub_of(server))

        def once():
            """Send a call of the polite one; return whether it was answered."""
            if transport == "rest":
                return is_taken(polite_key)
            metadata = [("authorization", f"Bearer {polite_key}")]
            code = stub.Predict.future(MESSAGE, PATIENCE, metadata).code()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            return code is grpc.StatusCode.OK

        while potential.entered.acquire(blocking=False):
            """Forget the batches of the warm-up."""
        crowd = stack.enter_context(Crowd(3 * N_PLACES, is_taken))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        # The device works only while the polite one waits, so that the queue is full before.
        for _ in range(N_POLITE):
            n_before = crowd.n_refused
            wait_until(lambda n_before=n_before: crowd.n_refused > n_before)
            asked = pool.submit(once)
            while not asked.done():
                if potential.entered.acquire(timeout=0.01):
                    potential.gate.release()
            assert asked.result()
        potential.gate.release(10**6)


@contextmanager
def stub_of(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        yield InferenceStub(channel)
