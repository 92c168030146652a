"""Walkers to and from protobuf messages, both directions side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, nextafter
from typing import Any

import numpy as np

from twinforce_dynamics.course import Snapshot
from twinforce_dynamics.disagreement import Disagreement
from twinforce_dynamics.elements import SYMBOLS
from twinforce_dynamics.ensembles import (
    BAR,
    FS,
    NPT,
    NVE,
    SVR,
    WATER_COMPRESSIBILITY,
    Ensemble,
    Langevin,
)
from twinforce_dynamics.propagation import ForceChoice
from twinforce_dynamics.start import Integrator, Start, invalid
from twinforce_proto import InvalidRequestError, PredictionError
from twinforce_proto.arrays import array_from_proto, array_to_proto
from twinforce_proto.codec import (
    cell_from_proto,
    provenance_from_proto,
    provenance_to_proto,
    system_from_proto,
    system_to_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb

_FORCE_KINDS: dict[ForceChoice, pb.ForceKind] = {
    "conservative": pb.FORCE_KIND_CONSERVATIVE,
    "direct": pb.FORCE_KIND_DIRECT,
    "hybrid": pb.FORCE_KIND_HYBRID,
}
_RANDOM_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class PropagateRequest:
    """A walker, and how far it is to go.

    Attributes:
        model: Its name; with a checkpoint, empty for the one that it was made with.
        origin: Where it sets out, or the checkpoint that it goes on from.
        n_steps: Inner ones, from here; whole outer steps.
        interval: Inner steps from one snapshot to the next; whole outer steps. 0: only the last.

    Raises:
        InvalidRequestError: Numbers of steps make no sense.
    """

    model: str
    origin: Start | bytes
    n_steps: int
    interval: int = 0

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise invalid("n_steps", "at least 1", self.n_steps)
        if self.interval < 0:
            raise invalid("interval", "at least 0", self.interval)


def propagate_request_to_proto(request: PropagateRequest) -> pb.PropagateRequest:
    """Encode a request."""
    origin = request.origin
    return pb.PropagateRequest(
        model=request.model,
        start=start_to_proto(origin) if isinstance(origin, Start) else None,
        checkpoint=origin if isinstance(origin, bytes) else None,
        n_steps=request.n_steps,
        interval=request.interval,
    )


def propagate_request_from_proto(message: pb.PropagateRequest) -> PropagateRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: When it makes no sense; `field` says where.
        InvalidSystemError: When the system is invalid.
    """
    origin: Start | bytes = message.checkpoint
    if message.HasField("start"):
        origin = start_from_proto(message.start)
    elif not message.checkpoint:
        raise invalid("origin", "a start or a checkpoint", "neither")
    return PropagateRequest(message.model, origin, message.n_steps, message.interval)


def start_to_proto(start: Start, *, with_velocities: bool = True) -> pb.Start:
    """Encode what a walker sets out with."""
    velocities = array_to_proto(start.velocities * FS) if with_velocities else None
    return pb.Start(
        system=system_to_proto(start.system),
        velocities=velocities,
        masses=array_to_proto(start.masses),
        fixed_atoms=start.fixed_atoms.astype("<i4").tobytes(),
        integrator=integrator_to_proto(start.integrator),
        random_state=random_state_to_proto(start.random_state),
    )


def start_from_proto(message: pb.Start, *, with_velocities: bool = True) -> Start:
    """Decode what a walker sets out with.

    Args:
        message: As it came.
        with_velocities: Whether it holds any; else they are zero.

    Raises:
        InvalidRequestError: When it makes no sense; `field` says where.
        InvalidSystemError: When the system or the shape of the velocities is invalid.
    """
    if not message.HasField("system"):
        raise invalid("system", "one", "none")
    system = system_from_proto(message.system)
    masses = None
    if message.HasField("masses"):
        masses = array_from_proto(message.masses, "masses", (len(system),), InvalidRequestError)
    if len(message.fixed_atoms) % 4:
        raise invalid("fixed_atoms", "a multiple of 4 bytes", len(message.fixed_atoms))
    velocities = np.zeros((len(system), 3))
    if with_velocities:
        velocities = array_from_proto(message.velocities, "velocities", velocities.shape) / FS
    return Start(
        system,
        velocities,
        integrator_from_proto(message.integrator),
        masses=masses,
        fixed_atoms=np.frombuffer(message.fixed_atoms, dtype="<i4"),
        random=_random_from_proto(message),
    )


def integrator_to_proto(integrator: Integrator) -> pb.Integrator:
    """Encode how a system moves."""
    message = pb.Integrator(
        force_kind=force_kind_to_proto(integrator.force_kind),
        inner_steps=integrator.stride,
        time_step_fs=_in_fs(integrator.time_step),
    )
    ensemble = integrator.ensemble
    if isinstance(ensemble, NPT):
        message.npt.CopyFrom(_npt_to_proto(ensemble))
    else:
        _set_thermostat(message, ensemble)
    return message


def integrator_from_proto(message: pb.Integrator) -> Integrator:
    """Decode how a system moves.

    Raises:
        InvalidRequestError: When it makes no sense; `field` says where.
    """
    try:
        ensemble = _npt(message.npt) if message.HasField("npt") else _thermostat(message)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"ensemble: {error}", field="ensemble") from error
    return Integrator(
        time_step=message.time_step_fs * FS,
        force_kind=force_kind_from_proto(message.force_kind),
        inner_steps=message.inner_steps,
        ensemble=ensemble,
    )


def force_kind_to_proto(force_kind: ForceChoice) -> pb.ForceKind:
    """Encode which forces drive."""
    return _FORCE_KINDS[force_kind]


def force_kind_from_proto(number: int) -> ForceChoice:
    """Decode which forces drive.

    Raises:
        InvalidRequestError: There is no such kind.
    """
    for name, known in _FORCE_KINDS.items():
        if number == known:
            return name
    raise invalid("force_kind", ", ".join(_FORCE_KINDS), f"number {number}")


def snapshot_to_proto(snapshot: Snapshot) -> pb.Snapshot:
    """Encode a moment of a walker."""
    disagreement = snapshot.disagreement
    return pb.Snapshot(
        step=snapshot.step,
        time_fs=snapshot.time_fs,
        positions=array_to_proto(snapshot.positions),
        velocities=array_to_proto(snapshot.velocities * FS),
        cell=array_to_proto(snapshot.cell) if snapshot.cell.any() else None,
        energy=snapshot.energy,
        kinetic_energy=snapshot.kinetic_energy,
        conserved_energy=snapshot.conserved_energy,
        temperature_k=snapshot.temperature_k,
        species_temperatures=snapshot.species_temperatures,
        disagreement=None if disagreement is None else _disagreement_to_proto(disagreement),
        checkpoint=snapshot.checkpoint,
        provenance=provenance_to_proto(snapshot.provenance),
    )


def snapshot_from_proto(message: pb.Snapshot) -> Snapshot:
    """Decode a moment of a walker.

    Raises:
        PredictionError: When the bytes do not fit.
    """
    cell = cell_from_proto(message)
    has_disagreement = message.HasField("disagreement")
    return Snapshot(
        step=message.step,
        time_fs=message.time_fs,
        positions=array_from_proto(message.positions, "positions", (-1, 3), PredictionError),
        velocities=array_from_proto(message.velocities, "velocities", (-1, 3), PredictionError)
        / FS,
        cell=np.zeros((3, 3)) if cell is None else cell,
        energy=message.energy,
        kinetic_energy=message.kinetic_energy,
        conserved_energy=message.conserved_energy,
        temperature_k=message.temperature_k,
        species_temperatures=_in_order(message.species_temperatures),
        disagreement=_disagreement(message.disagreement) if has_disagreement else None,
        checkpoint=message.checkpoint,
        provenance=provenance_from_proto(message),
    )


def _disagreement_to_proto(disagreement: Disagreement) -> pb.ForceDisagreement:
    return pb.ForceDisagreement(
        rmse=disagreement.rmse,
        species_rmse=disagreement.species_rmse,
        work=disagreement.work,
        total_work=disagreement.total_work,
    )


def _disagreement(message: pb.ForceDisagreement) -> Disagreement:
    species = _in_order(message.species_rmse)
    return Disagreement(message.rmse, species, message.work, message.total_work)


def _in_order(values: Mapping[str, float]) -> dict[str, float]:
    """Return them by atomic number, as maps of protobuf have no order."""
    return {symbol: values[symbol] for symbol in SYMBOLS if symbol in values}


def _set_thermostat(message: pb.Integrator | pb.NPT, ensemble: Ensemble) -> None:
    if isinstance(ensemble, SVR):
        message.svr.CopyFrom(
            pb.SVR(
                temperature_k=ensemble.temperature_k,
                relaxation_fs=_in_fs(ensemble.relaxation),
                is_local=ensemble.scope == "local",
            )
        )
    elif isinstance(ensemble, Langevin):
        message.langevin.CopyFrom(
            pb.Langevin(
                temperature_k=ensemble.temperature_k, relaxation_fs=_in_fs(ensemble.relaxation)
            )
        )


def _thermostat(message: pb.Integrator | pb.NPT) -> SVR | Langevin | NVE:
    if message.HasField("svr"):
        return SVR(
            temperature_k=message.svr.temperature_k,
            relaxation=message.svr.relaxation_fs * FS,
            scope="local" if message.svr.is_local else "global",
        )
    if message.HasField("langevin"):
        return Langevin(
            temperature_k=message.langevin.temperature_k,
            relaxation=message.langevin.relaxation_fs * FS,
        )
    return NVE()


def _npt_to_proto(ensemble: NPT) -> pb.NPT:
    message = pb.NPT(
        pressure_bar=_before(lambda bar: bar * BAR, ensemble.pressure, ensemble.pressure / BAR),
        relaxation_fs=_in_fs(ensemble.relaxation),
        is_anisotropic=ensemble.coupling == "anisotropic",
        compressibility_per_bar=_before(
            lambda per_bar: per_bar / BAR, ensemble.compressibility, ensemble.compressibility * BAR
        ),
    )
    _set_thermostat(message, ensemble.thermostat)
    return message


def _npt(message: pb.NPT) -> NPT:
    thermostat = _thermostat(message)
    if isinstance(thermostat, NVE):
        raise ValueError("NPT: thermostat: expected svr or langevin, got none")
    return NPT(
        thermostat=thermostat,
        pressure=message.pressure_bar * BAR,
        relaxation=message.relaxation_fs * FS,
        coupling="anisotropic" if message.is_anisotropic else "isotropic",
        compressibility=message.compressibility_per_bar / BAR or WATER_COMPRESSIBILITY,
    )


def _in_fs(duration: float) -> float:
    return _before(lambda fs: fs * FS, duration, duration / FS)


def _before(convert: Callable[[float], float], value: float, guess: float) -> float:
    """Return what converts to this very number, near a guess, so that nothing creeps in.

    A checkpoint is decoded and encoded over and over; its numbers must not change by rounding.
    """
    near = (guess, nextafter(guess, inf), nextafter(guess, -inf))
    return next((each for each in near if convert(each) == value), guess)


def random_state_to_proto(values: Mapping[str, Any]) -> pb.RandomState:
    """Encode the state of random numbers."""
    state, increment = values["state"]["state"], values["state"]["inc"]
    return pb.RandomState(
        state=state.to_bytes(_RANDOM_BYTES, "little"),
        increment=increment.to_bytes(_RANDOM_BYTES, "little"),
        left_over=values["uinteger"] if values["has_uint32"] else None,
    )


def _random_from_proto(message: pb.Start) -> int | Mapping[str, Any] | None:
    if message.HasField("seed"):
        return message.seed
    if not message.HasField("random_state"):
        return None
    return random_state_from_proto(message.random_state)


def random_state_from_proto(given: pb.RandomState) -> Mapping[str, Any]:
    """Decode the state of random numbers, as numpy's PCG64 gives it.

    Raises:
        InvalidRequestError: When bytes are missing.
    """
    for name, data in (("state", given.state), ("increment", given.increment)):
        if len(data) != _RANDOM_BYTES:
            raise invalid("random_state", f"{_RANDOM_BYTES} bytes of {name}", f"{len(data)}")
    return {
        "bit_generator": "PCG64",
        "state": {
            "state": int.from_bytes(given.state, "little"),
            "inc": int.from_bytes(given.increment, "little") | 1,  # or it would not be a generator
        },
        "has_uint32": int(given.HasField("left_over")),
        "uinteger": given.left_over,
    }
