"""The JSON bodies of runs: requests, and the lines of replies."""

import base64
import binascii
from dataclasses import fields
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinforce_dynamics.codec.integrator import integrator_from_proto, random_state_from_proto
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import (
    DEFAULT_FMAX,
    DEFAULT_MAX_STEPS,
    PropagateRequest,
    RelaxRequest,
)
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_dynamics.units import FS
from twinforce_proto import InvalidRequestError, ServiceError
from twinforce_proto.codec.problem import error_to_problem
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import MAX_BYTES_INLINE
from twinforce_service.transports.rest.bodies import (
    Number,
    SystemBody,
    Vector,
    error_of,
    system_of,
)
from twinforce_service.transports.rest.counting import check_one_system

_STRICT = ConfigDict(extra="forbid", strict=True)
_FIXED_ATOMS = "Indices, from 0, of atoms that do not move."


class SVRBody(BaseModel):
    """Stochastic velocity rescaling."""

    model_config = _STRICT

    temperature_k: Number = Field(description="Target temperature, in K.")
    relaxation_fs: Number = Field(description="Relaxation time τ of the kinetic energy, in fs.")
    is_local: bool = Field(False, description="True to rescale each atom by a separate factor.")


class LangevinBody(BaseModel):
    """Langevin dynamics, integrated by BAOAB."""

    model_config = _STRICT

    temperature_k: Number = Field(description="Target temperature, in K.")
    relaxation_fs: Number = Field(
        description="Relaxation time τ of the momenta, in fs, which is 1/friction."
    )


class NPTBody(BaseModel):
    """Stochastic cell rescaling, with one of the thermostats."""

    model_config = _STRICT

    svr: SVRBody | None = None
    langevin: LangevinBody | None = None
    pressure_bar: Number = Field(description="Target pressure, in bar.")
    relaxation_fs: Number = Field(description="Relaxation time τ of the volume, in fs.")
    is_anisotropic: bool = Field(
        False, description="True to rescale the lengths and angles of the cell independently."
    )
    compressibility_per_bar: Number = Field(
        0.0, description="Approximate compressibility, in 1/bar; 0 means that of water."
    )


class IntegratorBody(BaseModel):
    """An integrator; the energy is constant unless an ensemble is given."""

    model_config = _STRICT

    force_kind: Literal["conservative", "direct", "hybrid"]
    inner_steps: int = Field(
        1, ge=1, lt=2**31, description="Inner steps per outer step, M, for hybrid forces."
    )
    time_step_fs: Number = Field(description="Inner time step, in fs.")
    svr: SVRBody | None = None
    langevin: LangevinBody | None = None
    npt: NPTBody | None = None


class RandomStateBody(BaseModel):
    """The state of the PCG64 random number generator."""

    model_config = _STRICT

    state: str = Field(description="128 bits, little-endian, in base64.")
    increment: str = Field(description="128 bits, little-endian, in base64.")
    left_over: int | None = Field(None, ge=0, lt=2**32)


class StartBody(BaseModel):
    """A system to move, with velocities and an integrator."""

    model_config = _STRICT

    system: SystemBody
    velocities: list[Vector] = Field(description="One row per atom, in Å/fs.")
    masses: list[Number] | None = Field(
        None, description="Masses, in amu; standard atomic masses by default."
    )
    fixed_atoms: list[int] = Field([], description=_FIXED_ATOMS)
    integrator: IntegratorBody
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    random_state: RandomStateBody | None = None


class PropagateBody(BaseModel):
    """A start or a checkpoint, and the number of steps."""

    model_config = _STRICT

    start: StartBody | None = None
    checkpoint: str | None = Field(None, description="Checkpoint of a snapshot, as received.")
    n_steps: int = Field(description="Number of inner steps, a multiple of inner_steps.")
    interval: int = Field(
        0, description="Inner steps between snapshots; 0 yields only the last snapshot."
    )
    allow_model_change: bool = Field(
        False, description="True resumes a checkpoint of other weights, which is evaluated anew."
    )


class RelaxBody(BaseModel):
    """A system to relax in its cell."""

    model_config = _STRICT

    system: SystemBody
    force_kind: Literal["conservative", "direct", "hybrid"] = Field(
        "hybrid", description="Hybrid relaxes on direct forces first, then on conservative forces."
    )
    fmax: Number = Field(
        DEFAULT_FMAX,
        description="Largest force on an atom at which the relaxation has converged, in eV/Å.",
    )
    max_steps: int = Field(
        DEFAULT_MAX_STEPS, description="Number of steps after which the relaxation ends."
    )
    interval: int = Field(10, description="Steps between lines; 0 yields only the last line.")
    fixed_atoms: list[int] = Field([], description=_FIXED_ATOMS)


def read_propagate_json(body: bytes, model: str, limits: CallLimits) -> PropagateRequest:
    """Decode a body.

    Raises:
        InvalidRequestError: The body is invalid.
        InvalidSystemError: The system is invalid.
        SystemTooLargeError: The system has too many atoms.
    """
    _check_large(body, limits)
    try:
        parsed = PropagateBody.model_validate_json(body)
    except ValidationError as error:
        raise error_of(error, within="start") from error
    if (parsed.start is None) == (parsed.checkpoint is None):
        got = "neither" if parsed.start is None else "both"
        raise InvalidRequestError.expected("origin", "a start or a checkpoint", got)
    origin: Start | bytes = (
        _checkpoint(parsed.checkpoint or "", limits)
        if parsed.start is None
        else _start(parsed.start)
    )
    return PropagateRequest(
        model, origin, parsed.n_steps, parsed.interval, parsed.allow_model_change
    )


def write_snapshot_line(snapshot: Snapshot) -> bytes:
    """Encode a snapshot as a line of JSON."""
    values = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
    values["velocities"] = snapshot.velocities * FS
    values["checkpoint"] = base64.b64encode(snapshot.checkpoint).decode()
    return _line({name: value for name, value in values.items() if value is not None})


def read_relax_json(body: bytes, model: str, limits: CallLimits) -> RelaxRequest:
    """Decode a body; errors as for `read_propagate_json`."""
    _check_large(body, limits)
    try:
        parsed = RelaxBody.model_validate_json(body)
    except ValidationError as error:
        raise error_of(error) from error
    values = parsed.model_dump(exclude={"system"})
    return RelaxRequest(model, system_of(parsed.system), **values)


def write_relaxed_line(relaxed: Relaxed) -> bytes:
    """Encode a report of a relaxation as a line of JSON."""
    return _line({field.name: getattr(relaxed, field.name) for field in fields(relaxed)})


def write_error_line(error: ServiceError) -> bytes:
    """Encode the error that ends a reply as its last line."""
    return _line({"error": error_to_problem(error)})


def _check_large(body: bytes, limits: CallLimits) -> None:
    if len(body) > MAX_BYTES_INLINE:
        check_one_system(body, limits)


def _checkpoint(text: str, limits: CallLimits) -> bytes:
    data = _bytes("checkpoint", text)
    limits.check_wire(data, pb.Checkpoint)
    return data


def _line(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _start(body: StartBody) -> Start:
    given = body.integrator
    _check_one("ensemble", given.svr, given.langevin, given.npt)
    if given.npt is not None:
        _check_one("npt", given.npt.svr, given.npt.langevin)
    integrator = pb.Integrator(
        force_kind=f"FORCE_KIND_{given.force_kind.upper()}",
        **given.model_dump(exclude={"force_kind"}, exclude_none=True),
    )
    return Start(
        system_of(body.system),
        [[value / FS for value in row] for row in body.velocities],
        integrator_from_proto(integrator),
        masses=body.masses,
        fixed_atoms=body.fixed_atoms,
        random=body.seed if body.random_state is None else _random_state(body.random_state),
    )


def _check_one(field: str, *choices: BaseModel | None) -> None:
    if len(given := [each for each in choices if each is not None]) > 1:
        kinds = " and ".join(type(each).__name__.removesuffix("Body").lower() for each in given)
        raise InvalidRequestError.expected(field, "at most one", kinds)


def _random_state(body: RandomStateBody) -> Any:
    return random_state_from_proto(
        pb.RandomState(
            state=_bytes("random_state", body.state),
            increment=_bytes("random_state", body.increment),
            left_over=body.left_over,
        )
    )


def _bytes(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError.expected(field, "base64", f"other text ({error})") from error
