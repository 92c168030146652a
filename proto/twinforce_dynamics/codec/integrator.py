"""Conversion of integrators, ensembles and random states to and from protobuf messages."""

from collections.abc import Mapping
from typing import Any

from twinforce_dynamics.ensembles import (
    NPT,
    NVE,
    SVR,
    WATER_COMPRESSIBILITY_PER_BAR,
    Ensemble,
    Langevin,
    make_ensemble,
)
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import ForceChoice
from twinforce_proto import InvalidRequestError
from twinforce_proto.v1 import inference_pb2 as pb

_FORCE_KINDS: dict[ForceChoice, pb.ForceKind] = {
    "conservative": pb.FORCE_KIND_CONSERVATIVE,
    "direct": pb.FORCE_KIND_DIRECT,
    "hybrid": pb.FORCE_KIND_HYBRID,
}
_RANDOM_BYTES = 16


def integrator_to_proto(integrator: Integrator) -> pb.Integrator:
    """Encode an integrator."""
    message = pb.Integrator(
        force_kind=force_kind_to_proto(integrator.force_kind),
        inner_steps=integrator.stride,
        time_step_fs=integrator.time_step_fs,
    )
    ensemble = integrator.ensemble
    if isinstance(ensemble, NPT):
        message.npt.CopyFrom(_npt_to_proto(ensemble))
    else:
        _set_thermostat(message, ensemble)
    return message


def integrator_from_proto(message: pb.Integrator) -> Integrator:
    """Decode an integrator.

    Raises:
        InvalidRequestError: A value is invalid; `field` names it.
    """
    try:
        ensemble = _ensemble_from_proto(message)
    except ValueError as error:
        raise InvalidRequestError(f"ensemble: {error}", field="ensemble") from error
    return Integrator(
        time_step_fs=message.time_step_fs,
        force_kind=force_kind_from_proto(message.force_kind),
        inner_steps=message.inner_steps,
        ensemble=ensemble,
    )


def force_kind_to_proto(force_kind: ForceChoice) -> pb.ForceKind:
    """Encode the forces that drive."""
    return _FORCE_KINDS[force_kind]


def force_kind_from_proto(number: int) -> ForceChoice:
    """Decode the forces that drive.

    Raises:
        InvalidRequestError: There is no such kind.
    """
    for name, known in _FORCE_KINDS.items():
        if number == known:
            return name
    raise InvalidRequestError.expected("force_kind", " or ".join(_FORCE_KINDS), f"number {number}")


def random_state_to_proto(values: Mapping[str, Any]) -> pb.RandomState:
    """Encode the state of a random number generator, as numpy's PCG64 defines it."""
    state, increment = values["state"]["state"], values["state"]["inc"]
    return pb.RandomState(
        state=state.to_bytes(_RANDOM_BYTES, "little"),
        increment=increment.to_bytes(_RANDOM_BYTES, "little"),
        left_over=values["uinteger"] if values["has_uint32"] else None,
    )


def random_state_from_proto(message: pb.RandomState) -> Mapping[str, Any]:
    """Decode the state of a random number generator, as numpy's PCG64 defines it.

    Raises:
        InvalidRequestError: Bytes are missing.
    """
    for name, data in (("state", message.state), ("increment", message.increment)):
        if len(data) != _RANDOM_BYTES:
            expected = f"{_RANDOM_BYTES} bytes of {name}"
            raise InvalidRequestError.expected("random_state", expected, len(data))
    return {
        "bit_generator": "PCG64",
        "state": {
            "state": int.from_bytes(message.state, "little"),
            "inc": int.from_bytes(message.increment, "little") | 1,  # PCG64 needs an odd increment
        },
        "has_uint32": int(message.HasField("left_over")),
        "uinteger": message.left_over,
    }


def _ensemble_from_proto(message: pb.Integrator) -> Ensemble:
    kind = message.WhichOneof("ensemble")
    if kind is None:
        return NVE()
    if kind != "npt":
        name, temperature_k, relaxation_fs = _thermostat_from_proto(message)
        return make_ensemble(name, temperature_k=temperature_k, relaxation_fs=relaxation_fs)
    npt = message.npt
    thermostat, temperature_k, relaxation_fs = _thermostat_from_proto(npt)
    return make_ensemble(
        "npt-anisotropic" if npt.is_anisotropic else "npt-isotropic",
        temperature_k=temperature_k,
        relaxation_fs=relaxation_fs,
        thermostat=thermostat,
        pressure_bar=npt.pressure_bar,
        pressure_relaxation_fs=npt.relaxation_fs,
        compressibility_per_bar=npt.compressibility_per_bar or WATER_COMPRESSIBILITY_PER_BAR,
    )


def _thermostat_from_proto(message: pb.Integrator | pb.NPT) -> tuple[str, float, float]:
    """Return the name, the temperature in K and the relaxation time in fs of a thermostat."""
    if message.HasField("svr"):
        svr = message.svr
        return "svr-local" if svr.is_local else "svr", svr.temperature_k, svr.relaxation_fs
    if message.HasField("langevin"):
        return "langevin", message.langevin.temperature_k, message.langevin.relaxation_fs
    raise ValueError("NPT: thermostat: expected svr or langevin, got none")


def _npt_to_proto(ensemble: NPT) -> pb.NPT:
    message = pb.NPT(
        pressure_bar=ensemble.pressure_bar,
        relaxation_fs=ensemble.relaxation_fs,
        is_anisotropic=ensemble.coupling == "anisotropic",
        compressibility_per_bar=ensemble.compressibility_per_bar,
    )
    _set_thermostat(message, ensemble.thermostat)
    return message


def _set_thermostat(message: pb.Integrator | pb.NPT, ensemble: Ensemble) -> None:
    if isinstance(ensemble, SVR):
        message.svr.CopyFrom(
            pb.SVR(
                temperature_k=ensemble.temperature_k,
                relaxation_fs=ensemble.relaxation_fs,
                is_local=ensemble.scope == "local",
            )
        )
    elif isinstance(ensemble, Langevin):
        message.langevin.CopyFrom(
            pb.Langevin(temperature_k=ensemble.temperature_k, relaxation_fs=ensemble.relaxation_fs)
        )
