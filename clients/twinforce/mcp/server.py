"""The server: each call of `AgentCalls` as a tool, over standard input and output."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from twinforce._async_client import AsyncClient
from twinforce.mcp.calls import AgentCalls
from twinforce.mcp.limits import AgentLimits
from twinforce_proto import ServiceError

_INSTRUCTIONS = """\
Energies, forces, relaxations and short molecular dynamics of atoms from machine-learned
interatomic potentials. List the models first: each knows some elements only. Lengths are in Å,
energies in eV, forces in eV/Å, times in fs."""


def make_server(client: AsyncClient, limits: AgentLimits) -> MCPServer:
    """Return a server whose tools call a service.

    Args:
        client: Client of the service.
        limits: Limits of one call.
    """
    server = MCPServer("TwinForce", instructions=_INSTRUCTIONS, log_level="WARNING")
    calls = AgentCalls(client, limits)
    for call in (
        calls.models,
        calls.model_card,
        calls.predict,
        calls.relax,
        calls.molecular_dynamics,
    ):
        server.tool()(_with_readable_errors(call, limits))
    return server


def serve(client: AsyncClient, limits: AgentLimits) -> None:
    """Answer an agent over standard input and output until it closes them."""
    make_server(client, limits).run("stdio")


def _with_readable_errors(
    call: Callable[..., Awaitable[Any]], limits: AgentLimits
) -> Callable[..., Awaitable[Any]]:
    """Return a call whose errors tell an agent what was expected and what came."""

    @functools.wraps(call)
    async def answer(*args: Any, **values: Any) -> Any:
        try:
            return await call(*args, **values)
        except ServiceError as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
        except TimeoutError as error:
            text = f"nothing was finished within {limits.max_seconds:g} s (--max-seconds)"
            raise ToolError(text) from error
        except ValueError as error:
            raise ToolError(str(error)) from error

    return answer
