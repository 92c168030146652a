"""Tests that an agent uses the service through `twinforce mcp`, by the client of the SDK."""

import asyncio
import os
import sys

import numpy as np
import pytest

from tests.clients.serving import serve
from tests.potentials import Gated
from twinforce import AsyncClient, Client, System
from twinforce.mcp.limits import AgentLimits

mcp = pytest.importorskip("mcp", reason="the SDK is not installed (pip install 'twinforce[mcp]')")

PATIENCE = 120.0
DIMER = {"symbols": ["Ar", "Ar"], "positions": [[0.0, 0.0, 0.0], [4.2, 0.0, 0.0]]}
CRYSTAL = DIMER | {"cell": [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]], "pbc": True}


@pytest.fixture(scope="module")
def server():
    with serve(engine="thread") as server:
        yield server


def over_stdio(url, *options):
    """Return a client of the command, which runs in a process of its own."""
    arguments = ["-m", "twinforce.cli", "mcp", "--url", url, *options]
    command = mcp.StdioServerParameters(
        command=sys.executable, args=arguments, env=dict(os.environ)
    )
    return mcp.Client(command, read_timeout_seconds=PATIENCE)


def call(agent, name, **arguments):
    """Return what a tool says, and True if it is an error."""

    async def ask():
        async with agent:
            return await agent.call_tool(name, arguments)

    reply = asyncio.run(ask())
    if reply.is_error:
        return reply.content[0].text, True
    return reply.structured_content, False


def ask(url, name, limits=None, **arguments):
    """Return what a tool of a server in this process says, and True if it is an error."""
    from twinforce.mcp.server import make_server

    server = make_server(AsyncClient(url), AgentLimits(**limits or {}))
    return call(mcp.Client(server, read_timeout_seconds=PATIENCE), name, **arguments)


def answer(*question, **arguments):
    found, is_error = ask(*question, **arguments)
    assert not is_error, found
    return found


def refusal(*question, **arguments):
    found, is_error = ask(*question, **arguments)
    assert is_error
    return found


def test_the_command_offers_tools(server):
    agent = over_stdio(server.grpc_url)

    async def tools():
        async with agent:
            return (await agent.list_tools()).tools

    found = {tool.name: tool for tool in asyncio.run(tools())}
    assert found.keys() == {"models", "model_card", "predict", "relax", "molecular_dynamics"}
    assert all(tool.description for tool in found.values())
    schema = found["predict"].input_schema
    assert schema["required"] == ["system"]
    assert "hybrid" in str(schema["properties"]["outputs"])


def test_the_command_answers_over_standard_output(server):
    found, is_error = call(over_stdio(server.rest_url), "predict", system=DIMER)
    assert not is_error
    with Client(server.grpc_url) as client:
        system = System([18, 18], DIMER["positions"])
        assert found["energy"] == client.predict(system).energy


def test_the_command_takes_limits(server):
    options = ["--max-atoms", "1", "--max-steps", "5", "--max-seconds", "2"]
    found, is_error = call(over_stdio(server.grpc_url, *options), "models")
    assert not is_error
    assert found["limits"] == {"max_atoms": 1, "max_steps": 5, "max_seconds": 2.0}


@pytest.mark.parametrize("transport", ["grpc_url", "rest_url"])
def test_models_and_limits_are_listed(server, transport):
    found = answer(getattr(server, transport), "models", {"max_atoms": 7})
    (model,) = found["models"]
    assert model["name"] == "lj"
    assert "Ar" in model["elements"]
    assert model["units"]["energy"] == "eV"
    assert found["limits"] == {"max_atoms": 7, "max_steps": 2000, "max_seconds": 60.0}


def test_a_prediction_is_that_of_the_service(server):
    outputs = ["hybrid", "conservative_stress"]
    found = answer(server.grpc_url, "predict", system=CRYSTAL, outputs=outputs)
    system = System([18, 18], CRYSTAL["positions"], CRYSTAL["cell"], True)
    with Client(server.grpc_url) as client:
        expected = client.predict(system, outputs)
    assert found["energy"] == expected.energy
    for name in ("conservative_forces", "direct_forces", "conservative_stress"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=0, atol=5e-7)
    assert found["sha256"] == expected.provenance.sha256
    plain = answer(server.grpc_url, "predict", system=DIMER)
    assert plain.keys() >= {"energy", "conservative_forces"}
    assert "direct_forces" not in plain


def test_a_relaxation_ends_at_a_minimum(server):
    found = answer(server.grpc_url, "relax", system=DIMER, fmax=0.001)
    assert found["is_converged"]
    assert found["is_complete"]
    assert found["largest_force"] <= 0.001
    with Client(server.grpc_url) as client:
        *_, expected = client.relax(System([18, 18], DIMER["positions"]), fmax=0.001)
    np.testing.assert_allclose(found["positions"], expected.positions, rtol=0, atol=1e-6)
    assert found["energy"] < answer(server.grpc_url, "predict", system=DIMER)["energy"]
    short = answer(server.grpc_url, "relax", system=DIMER, fmax=1e-9, max_steps=3)
    assert not short["is_converged"]
    assert short["n_steps"] == 3


def test_dynamics_conserve_the_energy_and_report(server):
    settings = {"n_steps": 100, "temperature_k": 30.0, "thermostat": "none", "seed": 3}
    found = answer(
        server.grpc_url, "molecular_dynamics", system=DIMER, forces="conservative", **settings
    )
    reports = found["reports"]
    assert [each["step"] for each in reports] == list(range(0, 101, 10))
    energies = [each["conserved_energy"] for each in reports]
    assert np.ptp(energies) < 1e-4
    assert found["n_steps"] == 100
    again = answer(
        server.grpc_url, "molecular_dynamics", system=DIMER, forces="conservative", **settings
    )
    assert again == found


def test_hybrid_dynamics_with_a_thermostat_run(server):
    found = answer(server.grpc_url, "molecular_dynamics", system=CRYSTAL, n_steps=40)
    assert found["is_complete"]
    assert found["n_steps"] == 40
    assert np.shape(found["velocities"]) == (2, 3)


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("predict", {"system": DIMER | {"symbols": ["Ar", "Xx"]}},
         "InvalidSystemError: symbols[1]: expected a chemical symbol, got 'Xx'"),
        ("predict", {"system": DIMER | {"positions": [[0, 0, 0]]}},
         "InvalidSystemError: positions: expected shape [2, 3], got shape [1, 3]"),
        ("predict", {"system": DIMER, "outputs": ["conservative_stress"]},
         "UnsupportedOutputError: systems[0]: cell: expected vectors"),
        ("predict", {"system": DIMER, "model": "ice"}, "UnknownModelError: model: no model"),
        ("model_card", {"model": "ice"}, "UnknownModelError: model: no model is called 'ice'"),
        ("relax", {"system": DIMER, "max_steps": 0}, "max_steps: expected 1 to 50 (--max-steps)"),
        ("molecular_dynamics", {"system": DIMER, "n_steps": 51},
         "n_steps: expected 1 to 50 (--max-steps), got 51"),
        ("molecular_dynamics", {"system": DIMER, "n_steps": 4, "temperature_k": -1.0},
         "temperature_k: expected a number from 0, got -1"),
        ("molecular_dynamics", {"system": DIMER, "n_steps": 3}, "InvalidRequestError: n_steps"),
        ("predict", {"system": {"symbols": ["Ar"] * 4, "positions": [[0, 0, 0]] * 4}},
         "system: expected at most 3 atoms (--max-atoms), got 4"),
    ],
)  # fmt: skip
def test_an_error_tells_the_agent_what_was_expected(server, tool, arguments, words):
    limits = {"max_steps": 50, "max_atoms": 3}
    assert words in refusal(server.grpc_url, tool, limits, **arguments)


def test_a_call_ends_at_its_time(serve):
    potential = Gated()
    server = serve(soft=potential)
    try:
        found = refusal(server.grpc_url, "predict", {"max_seconds": 0.5}, system=DIMER)
        assert "nothing was finished within 0.5 s (--max-seconds)" in found
    finally:
        potential.gate.release(1000)


def test_a_run_that_takes_too_long_ends_where_it_is(serve):
    potential = Gated()
    server = serve(soft=potential)
    potential.gate.release(5)
    try:
        found = answer(
            server.grpc_url,
            "molecular_dynamics",
            {"max_seconds": 5.0},
            system=DIMER,
            n_steps=1000,
            forces="conservative",
            thermostat="none",
        )
        assert not found["is_complete"]
        assert found["n_steps"] < 1000
    finally:
        potential.gate.release(10_000)


def test_a_service_that_is_gone_is_named():
    agent = over_stdio("grpc://127.0.0.1:9", "--reconnect-timeout", "0.1")
    words, is_error = call(agent, "models")
    assert is_error
    assert "UnavailableError: " in words
    assert "127.0.0.1:9" in words
