"""A burst of calls of one `AsyncClient`."""

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.clients.proxy import CountingProxy
from tests.systems import molecule
from twinforce import AsyncClient


@pytest.fixture
def proxy(server):
    proxy = CountingProxy(urlsplit(server.rest_url).port)
    yield proxy
    proxy.close()


def test_a_burst_over_http_shares_a_limited_number_of_connections(proxy):
    async def burst(n_calls):
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            calls = [client.predict(molecule(2), "energy") for _ in range(n_calls)]
            return {each.energy for each in await asyncio.gather(*calls)}

    assert len(asyncio.run(burst(600))) == 1
    assert proxy.n_connections <= 129  # one of them asked for the models
