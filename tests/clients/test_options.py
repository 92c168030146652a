"""Tests that the options of a client and its time limits are checked and mean what they say."""

import asyncio
import math
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from tests.clients.test_outages import start
from tests.systems import molecule
from twinforce import AsyncClient, Client, DeadlineExceededError
from twinforce.ase import TwinForceCalculator
from twinforce.cli import run

NO_LIMIT = [None, math.inf, np.inf, 1e12, 1e308, 10**400, 2**63, Decimal("inf")]
LIMITS = [60, 60.0, np.float32(60), np.int64(60), Decimal(60), Fraction(120, 2)]
NOT_A_LIMIT = [
    0,
    0.0,
    -1,
    -math.inf,
    math.nan,
    np.nan,
    True,
    False,
    np.True_,
    "60",
    "inf",
    [60],
    b"1",
    1j,
    np.array([60.0]),
    -(10**400),
    Decimal("nan"),
    Fraction(1, 10**400),
    timedelta(seconds=60),
]
KINDS = [Client, AsyncClient, TwinForceCalculator]
CALLS = {
    "predict": lambda client: client.predict(molecule()),
    "nonconservativity": lambda client: client.nonconservativity(molecule()),
    "models": lambda client: client.models(),
    "propagate": lambda client: list(client.propagate(start(), 4, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["timeout", "reconnect_timeout"])
@pytest.mark.parametrize("value", NOT_A_LIMIT, ids=repr)
def test_what_is_no_time_limit_is_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected a positive number of seconds.*, got "):
        kind("grpc://127.0.0.1:1", **{name: value})


@pytest.mark.parametrize("value", [*NO_LIMIT, *LIMITS], ids=repr)
def test_every_time_limit_works(url, value):
    options = {"timeout": value, "reconnect_timeout": value}

    async def use():
        async with AsyncClient(url, **options) as client, client.stream() as stream:
            steps = [each.step async for each in client.propagate(start(), 4, 2, timeout=value)]
            found = [(await client.predict(molecule())).energy for _ in range(2)]
            return [*found, (await stream.predict(molecule())).energy], steps

    with Client(url, **options) as client, client.stream() as stream:
        energies = [client.predict(molecule()).energy, stream.predict(molecule()).energy]
        steps = [each.step for each in client.propagate(start(), 4, 2, timeout=value)]
        assert [*client.relax(molecule(), max_steps=2, timeout=value)][-1].is_last
    others, other_steps = asyncio.run(use())
    assert len({*energies, *others}) == 1
    assert steps == other_steps == [0, 2, 4]


@pytest.mark.parametrize("value", [0, -1, math.nan, True, "60"], ids=repr)
def test_runs_refuse_what_is_no_time_limit(url, value):
    async def first(run):
        return await anext(run)

    with Client(url) as client:
        for call in (
            lambda: client.propagate(start(), 4, timeout=value),
            lambda: client.relax(molecule(), timeout=value),
            lambda: asyncio.run(first(AsyncClient(url).propagate(start(), 4, timeout=value))),
            lambda: asyncio.run(first(AsyncClient(url).relax(molecule(), timeout=value))),
        ):
            with pytest.raises(ValueError, match="timeout: expected a positive number"):
                call()


@pytest.mark.parametrize("seconds", [1e-9, 1e-7, 5e-324])
def test_no_time_is_too_little_time(url, seconds):
    async def use():
        async with AsyncClient(url, timeout=seconds) as client:
            await client.predict(molecule(), model="lj")

    with Client(url, timeout=seconds) as client, client.stream("lj") as stream:
        for call in (*CALLS.values(), lambda _: stream.predict(molecule())):
            with pytest.raises(DeadlineExceededError, match="within "):
                call(client)
    with pytest.raises(DeadlineExceededError, match="within "):
        asyncio.run(use())
    with Client(url) as client:
        for run in (
            client.propagate(start(), 4, timeout=seconds),
            client.relax(molecule(), timeout=seconds),
        ):
            with pytest.raises(DeadlineExceededError):
                list(run)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("encoding", "JSON", "'protobuf' or 'json'"),
        ("encoding", None, "'protobuf' or 'json'"),
        ("encoding", ["json"], "'protobuf' or 'json'"),
        ("reply_dtype", np.float32, "'float64' or 'float32'"),
        ("reply_dtype", "f4", "'float64' or 'float32'"),
        ("max_retries", -1, "a whole number from 0, or None"),
        ("max_retries", 2.0, "a whole number from 0, or None"),
        ("max_retries", math.inf, "a whole number from 0, or None"),
        ("max_retries", True, "a whole number from 0, or None"),
        ("max_retries", "3", "a whole number from 0, or None"),
        ("urgency", 3.0, "a whole number from 0"),
        ("urgency", True, "a whole number from 0"),
        ("urgency", None, "a whole number from 0"),
        ("urgency", 8, "a whole number from 0"),
    ],
)
def test_options_are_checked(name, value, expected):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=f"^{name}: expected {expected}"):
            kind("http://127.0.0.1:1", **{name: value})


@pytest.mark.parametrize("url", [None, 8001, b"grpc://host:1", ["grpc://host:1"], "http://[::1"])
def test_what_is_no_url_is_refused(url):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="expected a url such as grpc://host:8001"):
            kind(url)


def test_a_url_with_a_password_is_refused_without_showing_it():
    with pytest.raises(ValueError, match="credentials") as caught:
        Client("http://me:secret@host:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--timeout", "--reconnect-timeout"])
def test_the_command_line_takes_the_same_time_limits(url, capsys, flag):
    for text in ("none", "inf", "None", "1e308", "60"):
        assert run(["models", "--url", url, flag, text]) == 0
    for text in ("0", "-1", "nan", "soon", "-inf", ""):
        with suppress(SystemExit):
            assert run(["models", "--url", url, f"{flag}={text}"]) != 0
        error = capsys.readouterr().err
        assert f"argument {flag}: " in error
