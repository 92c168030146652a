"""Tests of calls that name no model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.serving import serve
from tests.ports import free_port
from tests.potentials import Soft, loaded
from tests.service.callers.making import add_key
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import Client, InvalidRequestError


def test_a_call_without_the_name_of_a_model_waits_until_one_is_loaded():
    port, may_load, servers = free_port(), threading.Event(), []

    def load():
        may_load.wait(60)
        return {"soft": loaded(Soft())}

    starting = threading.Thread(target=lambda: servers.append(serve(load, rest_port=port)))
    starting.start()
    try:
        with Client(f"http://127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as thread:
            wait_until(lambda: not client.status().is_ready)
            assert client.models() == []
            found = thread.submit(client.predict, molecule())
            with pytest.raises(TimeoutError):
                found.result(0.5)
            may_load.set()
            energy = found.result(60).energy
            assert energy == client.predict(molecule(), model="soft").energy
    finally:
        may_load.set()
        starting.join()
        servers[0].stop()


def test_a_call_of_a_key_without_models_is_refused_at_once(tmp_path):
    keys = tmp_path / "keys.json"
    key = add_key(keys, "alice", "--models", "another")
    with serve(keys=str(keys)) as server:
        for url in (server.grpc_url, server.rest_url):
            with (
                Client(url, key=key, timeout=None) as client,
                pytest.raises(InvalidRequestError, match=r"a served model \(none\), got none"),
            ):
                client.predict(molecule())
