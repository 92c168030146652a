"""What a walker goes on from, bit for bit: to and from bytes, without pickle."""

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from twinforce_dynamics.codec.propagation import start_from_proto, start_to_proto
from twinforce_dynamics.start import Start
from twinforce_dynamics.steps import State
from twinforce_dynamics.trajectory import outputs_of
from twinforce_proto import InvalidRequestError, Prediction, ServiceError
from twinforce_proto.codec.arrays import array_from_proto, array_to_proto
from twinforce_proto.codec.messages import prediction_from_proto, prediction_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

_FORMAT = "twinforce checkpoint 1"
# So that there is room for further ones in 64 bits.
_MAX_STEP = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A walker between two outer steps.

    Attributes:
        model: The name of its model.
        sha256: Of the weights of that.
        start: What it would set out with here, but for velocities.
        state: Where it is.
        step: How many inner steps it has taken.
    """

    model: str
    sha256: str
    start: Start
    state: State
    step: int

    def to_bytes(self) -> bytes:
        """Encode it."""
        state = self.state
        return pb.Checkpoint(
            format=_FORMAT,
            model=self.model,
            sha256=self.sha256,
            start=start_to_proto(self.start, with_velocities=False),
            momenta=array_to_proto(state.momenta),
            prediction=prediction_to_proto(state.prediction),
            supplied=state.supplied,
            correction_work=state.correction_work,
            step=self.step,
        ).SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint":
        """Decode one.

        Raises:
            InvalidRequestError: It is none.
        """
        try:
            return _decoded(pb.Checkpoint.FromString(data))
        except (DecodeError, ServiceError, ValueError) as error:
            raise _no_checkpoint(error) from error


@dataclass(frozen=True, slots=True)
class Outline:
    """What a checkpoint says of itself.

    Attributes:
        model: The name of its model.
        n_atoms: How many there are.
        step: How many inner steps the walker has taken.
    """

    model: str
    n_atoms: int
    step: int

    @classmethod
    def of(cls, data: bytes) -> "Outline":
        """Return that of a checkpoint, without looking at it any closer.

        Raises:
            InvalidRequestError: It is none.
        """
        try:
            message = pb.Checkpoint.FromString(data)
        except DecodeError as error:
            raise _no_checkpoint(error) from error
        return cls(message.model, len(message.start.system.atomic_numbers) // 4, message.step)


def _no_checkpoint(error: Exception) -> InvalidRequestError:
    text = f"checkpoint: expected one that a snapshot held, got other bytes: {error}"
    return InvalidRequestError(text, field="checkpoint")


def _decoded(message: pb.Checkpoint) -> Checkpoint:
    if message.format != _FORMAT:
        raise ValueError(f"expected format {_FORMAT!r}, got {message.format!r}")
    momenta = array_from_proto(message.momenta, "momenta", (-1, 3))
    start = start_from_proto(message.start, with_velocities=False)
    prediction = prediction_from_proto(message.prediction)
    state = State(
        start.system.positions,
        momenta,
        start.system.cell,
        prediction,
        message.supplied,
        message.correction_work,
    )
    _check(start, state)
    if not 0 <= message.step <= _MAX_STEP:
        raise ValueError(f"step: expected from 0 to {_MAX_STEP}, got {message.step}")
    return Checkpoint(message.model, message.sha256, start, state, message.step)


def _check(start: Start, state: State) -> None:
    """Refuse numbers of another shape, and what is not finite."""
    n_atoms = len(start.system)
    _check_array("momenta", state.momenta, (n_atoms, 3))
    _, needed = outputs_of(start.integrator.force_kind, start.integrator.ensemble)
    for output in sorted(needed):
        shape = () if output == "energy" else (3, 3) if "stress" in output else (n_atoms, 3)
        _check_array(output, _needed(state.prediction, output), shape)
    _check_array("supplied", state.supplied, ())
    _check_array("correction_work", state.correction_work, ())


def _needed(prediction: Prediction, output: str) -> object:
    value = getattr(prediction, output)
    if value is None:
        raise ValueError(f"{output}: expected some, got none")
    return value


def _check_array(name: str, value: object, shape: tuple[int, ...]) -> None:
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
