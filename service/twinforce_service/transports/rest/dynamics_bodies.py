"""The bodies of propagation over REST: what is asked for, and the lines of the reply."""

import base64
import binascii
from dataclasses import fields
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinforce_dynamics.codec.integrator import integrator_from_proto, random_state_from_proto
from twinforce_dynamics.codec.propagation import propagate_request_from_proto
from twinforce_dynamics.codec.relaxation import relax_request_from_proto
from twinforce_dynamics.ensembles import FS
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import InvalidRequestError, ServiceError
from twinforce_proto.codec.problem import error_to_problem
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.transports.rest.bodies import (
    Number,
    SystemBody,
    Vector,
    parsed_message,
    reported,
    system_of,
)

_STRICT = ConfigDict(extra="forbid", strict=True)


class SVRBody(BaseModel):
    """Stochastic velocity rescaling."""

    model_config = _STRICT

    temperature_k: Number
    relaxation_fs: Number = Field(description="τ of the kinetic energy.")
    is_local: bool = Field(False, description="Each atom by a factor of its own.")


class LangevinBody(BaseModel):
    """Langevin dynamics, as BAOAB."""

    model_config = _STRICT

    temperature_k: Number
    relaxation_fs: Number = Field(description="τ of momenta, 1/friction.")


class NPTBody(BaseModel):
    """Stochastic cell rescaling, with one of the thermostats."""

    model_config = _STRICT

    svr: SVRBody | None = None
    langevin: LangevinBody | None = None
    pressure_bar: Number
    relaxation_fs: Number = Field(description="τ of the volume.")
    is_anisotropic: bool = Field(False, description="Lengths and angles of the cell one by one.")
    compressibility_per_bar: Number = Field(0.0, description="About; 0: that of water.")


class IntegratorBody(BaseModel):
    """How a system moves; the energy is constant unless an ensemble is named."""

    model_config = _STRICT

    force_kind: Literal["conservative", "direct", "hybrid"]
    inner_steps: int = Field(1, ge=1, lt=2**31, description="M, of hybrid forces.")
    time_step_fs: Number = Field(description="The inner one.")
    svr: SVRBody | None = None
    langevin: LangevinBody | None = None
    npt: NPTBody | None = None


class RandomStateBody(BaseModel):
    """Of PCG64."""

    model_config = _STRICT

    state: str = Field(description="128 bits, little-endian, in base64.")
    increment: str = Field(description="128 bits, little-endian, in base64.")
    left_over: int | None = Field(None, ge=0, lt=2**32)


class StartBody(BaseModel):
    """A system that moves, and how."""

    model_config = _STRICT

    system: SystemBody
    velocities: list[Vector] = Field(description="One row per atom, in Å/fs.")
    masses: list[Number] | None = Field(None, description="In amu; standard ones by default.")
    fixed_atoms: list[int] = Field([], description="Places, from 0, of atoms that do not move.")
    integrator: IntegratorBody
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    random_state: RandomStateBody | None = None


class PropagateBody(BaseModel):
    """What moves, from a start or a checkpoint, and how far."""

    model_config = _STRICT

    start: StartBody | None = None
    checkpoint: str | None = Field(None, description="Of a snapshot, as it came.")
    n_steps: int = Field(description="Inner ones; whole outer steps.")
    interval: int = Field(0, description="Inner steps between snapshots; 0: the last one alone.")


class RelaxBody(BaseModel):
    """A system to relax in its cell."""

    model_config = _STRICT

    system: SystemBody
    force_kind: Literal["conservative", "direct", "hybrid"] = Field(
        "hybrid", description="Hybrid: direct forces first, conservative ones to finish."
    )
    fmax: Number = Field(0.05, description="The largest force that counts as none, in eV/Å.")
    max_steps: int = 500
    interval: int = Field(10, description="Steps between lines; 0: the last one alone.")
    fixed_atoms: list[int] = Field([], description="Places, from 0, of atoms that do not move.")


def read_propagate_json(body: bytes, model: str) -> PropagateRequest:
    """Decode a JSON body.

    Raises:
        InvalidRequestError: When it is no such body, or makes no sense.
        InvalidSystemError: When the system is invalid.
    """
    try:
        parsed = PropagateBody.model_validate_json(body)
    except ValidationError as error:
        raise reported(error, within="start") from error
    if (parsed.start is None) == (parsed.checkpoint is None):
        got = "neither" if parsed.start is None else "both"
        raise InvalidRequestError.expected("origin", "a start or a checkpoint", got)
    origin: Start | bytes = (
        _bytes("checkpoint", parsed.checkpoint or "")
        if parsed.start is None
        else _start(parsed.start)
    )
    return PropagateRequest(model, origin, parsed.n_steps, parsed.interval)


def read_propagate_protobuf(body: bytes, model: str) -> PropagateRequest:
    """Decode a `twinforce.v1.PropagateRequest`; arguments and errors as `read_propagate_json`."""
    return propagate_request_from_proto(parsed_message(pb.PropagateRequest, body, model))


def write_snapshot_line(snapshot: Snapshot) -> bytes:
    """Encode a moment of a walker as a line of JSON."""
    values = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
    values["velocities"] = snapshot.velocities * FS
    values["checkpoint"] = base64.b64encode(snapshot.checkpoint).decode()
    return _line({name: value for name, value in values.items() if value is not None})


def read_relax_json(body: bytes, model: str) -> RelaxRequest:
    """Decode a JSON body; arguments and errors as `read_propagate_json`."""
    try:
        parsed = RelaxBody.model_validate_json(body)
    except ValidationError as error:
        raise reported(error) from error
    values = parsed.model_dump(exclude={"system"})
    return RelaxRequest(model, system_of(parsed.system), **values)


def read_relax_protobuf(body: bytes, model: str) -> RelaxRequest:
    """Decode a `twinforce.v1.RelaxRequest`; arguments and errors as `read_propagate_json`."""
    return relax_request_from_proto(parsed_message(pb.RelaxRequest, body, model))


def write_relaxed_line(relaxed: Relaxed) -> bytes:
    """Encode how far a relaxation is as a line of JSON."""
    return _line({field.name: getattr(relaxed, field.name) for field in fields(relaxed)})


def write_error_line(error: ServiceError) -> bytes:
    """Encode the error that ends a reply as its last line."""
    return _line({"error": error_to_problem(error)})


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
        raise InvalidRequestError.expected(field, "one at most", kinds)


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
