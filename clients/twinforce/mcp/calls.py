"""The calls that an agent can make, within limits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import numpy as np

from twinforce._async_client import AsyncClient
from twinforce.ensembles import FS, NVE, SVR, Ensemble
from twinforce.mcp.atoms import Atoms, rounded, symbols_of
from twinforce.mcp.limits import AgentLimits
from twinforce_dynamics.elements import standard_masses
from twinforce_dynamics.start import Integrator, Start
from twinforce_dynamics.steps import ForceChoice
from twinforce_dynamics.trajectory import Snapshot
from twinforce_dynamics.units import BOLTZMANN
from twinforce_proto import OUTPUTS, ModelInfo, Provenance, System

Output = Literal[
    "energy",
    "atom_energies",
    "conservative_forces",
    "direct_forces",
    "conservative_stress",
    "direct_stress",
    "hybrid",
]
Reply = dict[str, Any]

# Reports of a run of molecular dynamics, about.
_N_REPORTS = 10

_Update = TypeVar("_Update")


class AgentCalls:
    """The calls of a service for agents, each of which becomes a tool.

    Errors are of the service, or ValueError for what exceeds the limits.

    Args:
        client: Client of the service.
        limits: Limits of one call.
    """

    def __init__(self, client: AsyncClient, limits: AgentLimits) -> None:
        self._client = client
        self._limits = limits

    async def models(self) -> Reply:
        """List the served models: elements, outputs, units and limits of a call."""
        infos = await self._client.models()
        return {"models": [_described(info) for info in infos], "limits": asdict(self._limits)}

    async def model_card(self, model: str) -> str:
        """Return the card of a model: training data, errors, and what it is good for."""
        info = await self._client.model(model)
        return info.card or f"The model {model!r} has no card."

    async def predict(
        self,
        system: Atoms,
        outputs: list[Output] = ["energy", "conservative_forces"],  # noqa: B006
        model: str | None = None,
    ) -> Reply:
        """Evaluate a system: energy in eV, forces in eV/Å, stresses in eV/Å³ (tension > 0).

        "conservative_forces" are the negative gradient of the energy. "direct_forces" are cheaper
        and not a gradient. "hybrid" stands for the energy and both.
        """
        checked = self._checked(system)
        async with asyncio.timeout(self._limits.max_seconds):
            prediction = await self._client.predict(checked, outputs, model)
        reply: Reply = {}
        for name in OUTPUTS:
            if (value := getattr(prediction, name)) is not None:
                reply[name] = value if name == "energy" else rounded(value)
        return reply | _origin(prediction.provenance)

    async def relax(
        self,
        system: Atoms,
        fmax: float = 0.05,
        max_steps: int = 200,
        forces: ForceChoice = "hybrid",
        model: str | None = None,
    ) -> Reply:
        """Move the atoms of a system to a minimum of the energy; the cell stays as it is.

        It is converged when no force is larger than `fmax`, in eV/Å. "hybrid" forces descend on
        direct forces and finish on conservative ones. A relaxation that takes too long ends
        with the positions that it has reached.
        """
        checked = self._checked(system)
        self._limits.check_steps("max_steps", max_steps)
        reports = self._client.relax(
            checked, force_kind=forces, fmax=fmax, max_steps=max_steps, model=model
        )
        updates, is_complete = await self._followed(reports)
        last = updates[-1]
        return {
            "is_converged": last.is_converged,
            "is_complete": is_complete,
            "n_steps": last.step,
            "energy": last.energy,
            "largest_force": round(last.largest_force, 6),
            "positions": rounded(last.positions),
        } | _origin(last.provenance)

    async def molecular_dynamics(
        self,
        system: Atoms,
        n_steps: int,
        temperature_k: float = 300.0,
        time_step_fs: float = 0.5,
        thermostat: Literal["svr", "none"] = "svr",
        relaxation_fs: float = 100.0,
        forces: ForceChoice = "hybrid",
        inner_steps: int = 4,
        seed: int = 0,
        model: str | None = None,
    ) -> Reply:
        """Run short molecular dynamics, from velocities drawn at a temperature.

        "svr" is stochastic velocity rescaling; "none" conserves the energy. "hybrid" forces are
        multiple time stepping: direct forces at each step, corrected by conservative ones every
        `inner_steps` steps, of which `n_steps` has to be a multiple. A run that takes too long ends
        where it is. The reply has about ten reports and the last positions.
        """
        checked = self._checked(system)
        self._limits.check_steps("n_steps", n_steps)
        if not temperature_k >= 0:
            raise ValueError(f"temperature_k: expected a number from 0, got {temperature_k:g}")
        ensemble: Ensemble = NVE()
        if thermostat == "svr":
            ensemble = SVR(temperature_k=temperature_k, relaxation_fs=relaxation_fs)
        integrator = Integrator(
            time_step_fs=time_step_fs,
            force_kind=forces,
            inner_steps=inner_steps,
            ensemble=ensemble,
        )
        start = Start(checked, _velocities(checked, temperature_k, seed), integrator, random=seed)
        stride = integrator.stride
        interval = stride * max(1, n_steps // (_N_REPORTS * stride))
        run = self._client.propagate(start, n_steps, interval, model=model)
        snapshots, is_complete = await self._followed(run)
        last = snapshots[-1]
        return {
            "is_complete": is_complete,
            "n_steps": last.step,
            "reports": [_report(each) for each in snapshots],
            "positions": rounded(last.positions),
            "velocities": rounded(np.asarray(last.velocities) * FS),
        } | _origin(last.provenance)

    def _checked(self, atoms: Atoms) -> System:
        """Return the system that an agent gives, unless it is too large."""
        self._limits.check_atoms(len(atoms.symbols))
        return atoms.system()

    async def _followed(self, updates: AsyncGenerator[_Update, None]) -> tuple[list[_Update], bool]:
        """Return the updates of a run, and True unless its time was up before it ended.

        Raises:
            TimeoutError: There was no update in time.
        """
        seen: list[_Update] = []
        try:
            async with asyncio.timeout(self._limits.max_seconds), aclosing(updates):
                async for each in updates:
                    seen.append(each)  # noqa: PERF401
        except TimeoutError:
            if not seen:
                raise
            return seen, False
        return seen, True


def _velocities(system: System, temperature_k: float, seed: int) -> Any:
    """Return velocities of a Maxwell-Boltzmann distribution, without motion of the whole."""
    masses = standard_masses(system.atomic_numbers)[:, np.newaxis]
    drawn = np.random.default_rng(seed).standard_normal((len(system), 3))
    velocities = np.sqrt(BOLTZMANN * temperature_k / masses) * drawn
    if len(system) > 1:
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    return velocities


def _report(snapshot: Snapshot) -> Reply:
    return {
        "step": snapshot.step,
        "time_fs": round(snapshot.time_fs, 6),
        "energy": snapshot.energy,
        "temperature_k": round(snapshot.temperature_k, 3),
        "conserved_energy": snapshot.conserved_energy,
    }


def _described(info: ModelInfo) -> Reply:
    return {
        "name": info.name,
        "version": info.version,
        "architecture": info.architecture,
        "elements": symbols_of(info.elements),
        "outputs": list(info.outputs),
        "units": dict(info.units),
        "uses_charge": info.uses_charge,
        "uses_spin": info.uses_spin,
    }


def _origin(provenance: Provenance | None) -> Reply:
    """Return the model and its weights, so that a result can be traced."""
    if provenance is None:
        return {}
    return {"model": provenance.model, "version": provenance.version, "sha256": provenance.sha256}
