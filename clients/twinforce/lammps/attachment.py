"""The attachment of a service to a running LAMMPS, through a callback of `fix external`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twinforce._client import Client
from twinforce._weights import KeptWeights
from twinforce.lammps.box import atomic_numbers, cell_of, energy_unit, virial_of
from twinforce.lammps.forces import Forces, ForceScheme
from twinforce_proto import STRESSES, Prediction, System

_COMMANDS = ("command", "commands_list", "commands_string", "file")
# Fix that LAMMPS has while it minimizes.
_MINIMIZING = "MINIMIZE"


def attach(
    lmp: Any,
    url: str | Client,
    *,
    types: Sequence[str] | Mapping[int, str],
    model: str | None = None,
    forces: Forces = "conservative",
    inner_steps: int = 1,
    virial: bool | None = None,
    fix: str = "twinforce",
    charge: float | None = None,
    spin_multiplicity: int | None = None,
    **options: Any,
) -> "Attachment":
    """Let a service compute the forces on all atoms of a LAMMPS, its energy and its virial.

    The energy is part of `pe`, and the virial of the pressure, so that every integrator of LAMMPS
    works with them, except for `run_style respa`, which ignores `fix external`: use `inner_steps`.
    If a step fails, the command of `lmp` that runs it ends after the step and raises the error.

    Args:
        lmp: Object of the class `lammps` with atoms, in metal or real units, on one rank.
        url: Address of the service, or a client, which stays open.
        types: Chemical symbols in the order of the types of LAMMPS, or by type, such as
            {1: "O", 2: "H"}.
        model: Name of the model. None means the only one that is served, or else `water`.
        forces: "conservative", "direct", or "hybrid" for multiple time stepping: direct forces at
            each step, and at each step that is a multiple of `inner_steps` a correction.
        inner_steps: M, for hybrid forces. The time step of LAMMPS is the inner one.
        virial: True to compute the virial, False not to, None to do so if the box is periodic in
            some direction and the model has these stresses.
        fix: Name of the `fix external` that is made. One with this name is replaced, in its place
            among the fixes, so that it acts on all atoms and asks for forces at each step.
        charge: Total charge, for models that use it.
        spin_multiplicity: 2S + 1, for models that use it.
        options: Options of the `Client` that is made for the address, such as `timeout`.

    Raises:
        ValueError: An argument is invalid, LAMMPS uses other units or several ranks, or the name
            is that of a fix of another style.
        UnsupportedOutputError: The model lacks forces or stresses that are needed.
        ServiceError: The service cannot be reached, or has no such model.
    """
    if (n_ranks := lmp.extract_setting("world_size")) > 1:
        raise ValueError(f"lmp: expected LAMMPS on one rank, got {n_ranks}")
    if not lmp.extract_setting("box_exist"):
        raise ValueError("lmp: expected LAMMPS with a box of atoms, got none yet")
    numbers = atomic_numbers(types, lmp.extract_setting("ntypes"))
    labels = {"charge": charge, "spin_multiplicity": spin_multiplicity}
    given = {name: value for name, value in labels.items() if value is not None}
    with ExitStack() as on_failure:
        client = (
            url if isinstance(url, Client) else on_failure.enter_context(Client(url, **options))
        )
        info = client.model(model)
        if virial is None:
            offered = ForceScheme(forces, inner_steps, has_virial=True).outputs(0)
            _, periodic = cell_of(lmp)
            virial = bool(periodic.any()) and set(offered) & STRESSES <= set(info.outputs)
        scheme = ForceScheme(forces, int(inner_steps), virial)
        scheme.check(info)
        attachment = Attachment(
            lmp, client, info.name, scheme, numbers, fix, given, owns_client=client is not url
        )
        on_failure.push(attachment)
        attachment.begin()
        on_failure.pop_all()
    return attachment


class Attachment:
    """A service that computes the forces in a LAMMPS, until it is detached.

    Made by `attach`.

    Attributes:
        prediction: The last prediction; its energy is in eV and its forces are in the order of the
            ids of atoms.
        error: The error that ended the last run; None after other runs.
    """

    def __init__(
        self,
        lmp: Any,
        client: Client,
        model: str,
        scheme: ForceScheme,
        numbers: NDArray[np.int32],
        fix: str,
        labels: Mapping[str, Any],
        *,
        owns_client: bool,
    ) -> None:
        """Keep the parts; `begin` sets up LAMMPS."""
        self._lmp = lmp
        self._client = client
        self._owns_client = owns_client
        self._scheme = scheme
        self._numbers = numbers
        self._fix = fix
        self._has_fix = False
        self._labels = labels
        self._energy = energy_unit(lmp)
        self._stream = client.stream(model)
        self._weights = KeptWeights("which this run began with", "attach again to use them")
        self._system: System | None = None
        self._correction: NDArray[np.float64] | None = None
        self.prediction: Prediction | None = None
        self.error: Exception | None = None

    def begin(self) -> None:
        """Make the fix, or replace it, and let it call this."""
        try:
            self._lmp.command(f"fix {self._fix} all external pf/callback 1 1")
        except Exception as error:
            expected = "a name that is free or that of a fix external"
            raise ValueError(f"fix: expected {expected}, got {self._fix!r}: {error}") from error
        self._has_fix = True
        virial = "yes" if self._scheme.has_virial else "no"
        self._lmp.command(f"fix_modify {self._fix} energy yes virial {virial}")
        self._lmp.set_fix_external_callback(self._fix, self._compute, None)
        for name in _COMMANDS:
            setattr(self._lmp, name, self._raising(getattr(self._lmp, name)))

    def close(self) -> None:
        """Remove the fix, and close the client unless it was passed in."""
        for name in _COMMANDS:
            self._lmp.__dict__.pop(name, None)
        if self._has_fix and self._fix in self._lmp.available_ids("fix"):
            self._lmp.command(f"unfix {self._fix}")
        self._stream.close()
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raising(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Return a command of LAMMPS that raises what ended a run."""

        @functools.wraps(command)
        def run(*arguments: Any, **options: Any) -> Any:
            self.error = None
            result = command(*arguments, **options)
            self._raise()
            return result

        return run

    def _raise(self) -> None:
        """Raise what ended the run, after which LAMMPS can run again."""
        if self.error is not None:
            self._lmp.lib.lammps_command(self._lmp.lmp, b"timer timeout off")
            raise self.error

    def _compute(
        self,
        _: object,
        step: int,
        n_atoms: int,
        tags: NDArray[Any],
        positions: NDArray[np.float64],
        forces: NDArray[np.float64],
    ) -> None:
        """Set forces, energy and virial, and keep an exception, which LAMMPS would lose."""
        forces[:] = 0.0
        if self.error is not None:
            return
        try:
            order = np.argsort(tags[:, 0] if tags.ndim > 1 else tags)
            forces[order] = self._energy * self._evaluate(step, n_atoms, order, positions)
        except Exception as error:
            self.error = error
            self._lmp.force_timeout()  # ends the run after this step

    def _evaluate(
        self, step: int, n_atoms: int, order: NDArray[Any], positions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Evaluate the atoms in the order of their ids, and return their forces in eV/Å."""
        if self._lmp.extract_global("respa_levels"):
            raise ValueError(
                "run_style: expected verlet, got respa, which applies no forces of fix external; "
                "use attach(..., forces='hybrid', inner_steps=M)"
            )
        if self._scheme.forces == "hybrid" and self._lmp.has_id("fix", _MINIMIZING):
            raise ValueError(
                "forces: expected conservative or direct for minimize, got hybrid, whose impulses "
                "are not forces at one geometry"
            )
        types = self._lmp.numpy.extract_atom("type")[:n_atoms].ravel()
        system = self._moved(self._numbers[types[order]], positions[order])
        prediction = self._stream.predict(system, self._scheme.outputs(step))
        self._weights.check(prediction.provenance, allow_others=False)
        self.prediction = prediction
        assert prediction.energy is not None
        self._lmp.fix_external_set_energy_global(self._fix, self._energy * prediction.energy)
        if self._scheme.has_virial:
            virial = virial_of(self._stress_of(prediction), system)
            in_units = [self._energy * value for value in virial]
            self._lmp.fix_external_set_virial_global(self._fix, in_units)
        return self._scheme.forces_of(prediction)

    def _moved(self, numbers: NDArray[np.int32], positions: NDArray[np.float64]) -> System:
        cell, pbc = cell_of(self._lmp)
        before = self._system
        if (
            before is not None
            and np.array_equal(before.atomic_numbers, numbers)
            and np.array_equal(before.pbc, pbc)
        ):
            self._system = before.moved(positions, cell if pbc.any() else before.cell)
        else:
            self._system = System(
                numbers, positions, cell if pbc.any() else None, pbc, **self._labels
            )
        return self._system

    def _stress_of(self, prediction: Prediction) -> NDArray[np.float64]:
        """Return the stress; between corrections, the direct one plus the last difference."""
        direct, conservative = prediction.direct_stress, prediction.conservative_stress
        if direct is None:
            assert conservative is not None
            return conservative
        if conservative is not None:
            self._correction = conservative - direct
        return direct if self._correction is None else direct + self._correction
