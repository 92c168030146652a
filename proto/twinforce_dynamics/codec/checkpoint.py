"""Checkpoints, from which a run resumes bit for bit, and their conversion to and from bytes."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from twinforce_dynamics.codec.propagation import start_from_proto, start_to_proto
from twinforce_dynamics.start import Start
from twinforce_dynamics.steps import State
from twinforce_dynamics.trajectory import outputs_of
from twinforce_proto import InvalidRequestError, ServiceError
from twinforce_proto.codec.arrays import array_from_proto, array_to_proto
from twinforce_proto.codec.messages import prediction_from_proto, prediction_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

_FORMAT = "twinforce checkpoint 1"
# Leaves room to add further steps in 64 bits.
_MAX_STEP = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A run between two outer steps.

    Attributes:
        model: Name of the model.
        sha256: SHA-256 of its weights, in hexadecimal.
        start: Start of a run that continues from here, except for the velocities.
        state: State of the run.
        step: Number of inner steps taken.
    """

    model: str
    sha256: str
    start: Start
    state: State
    step: int

    def to_bytes(self) -> bytes:
        """Encode the checkpoint."""
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
        """Decode a checkpoint.

        Raises:
            InvalidRequestError: The bytes are not a valid checkpoint.
        """
        try:
            return _decoded(pb.Checkpoint.FromString(data))
        except (DecodeError, ServiceError, ValueError) as error:
            raise _invalid_checkpoint(error) from error


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """The model, size and step of a checkpoint, read without validating the rest.

    Attributes:
        model: Name of the model.
        sha256: SHA-256 of its weights, in hexadecimal.
        n_atoms: Number of atoms.
        step: Number of inner steps taken.
    """

    model: str
    sha256: str
    n_atoms: int
    step: int

    @classmethod
    def from_bytes(cls, data: bytes) -> "CheckpointSummary":
        """Decode the summary of a checkpoint.

        Raises:
            InvalidRequestError: The bytes are not a checkpoint.
        """
        try:
            message = pb.Checkpoint.FromString(data)
        except DecodeError as error:
            raise _invalid_checkpoint(error) from error
        n_atoms = len(message.start.system.atomic_numbers) // 4
        return cls(message.model, message.sha256, n_atoms, message.step)


def _invalid_checkpoint(error: Exception) -> InvalidRequestError:
    expected = "the checkpoint of a snapshot"
    return InvalidRequestError.expected("checkpoint", expected, f"other bytes: {error}")


def _decoded(message: pb.Checkpoint) -> Checkpoint:
    if message.format != _FORMAT:
        raise ValueError(f"expected format {_FORMAT!r}, got {message.format!r}")
    start = start_from_proto(message.start, with_velocities=False)
    state = State(
        start.system.positions,
        array_from_proto(message.momenta, "momenta", (-1, 3)),
        start.system.cell,
        prediction_from_proto(message.prediction),
        message.supplied,
        message.correction_work,
    )
    integrator = start.integrator
    _, needed = outputs_of(integrator.force_kind, integrator.ensemble)
    state.check(len(start.system), needed)
    if not 0 <= message.step <= _MAX_STEP:
        raise ValueError(f"step: expected a number from 0 to {_MAX_STEP}, got {message.step}")
    return Checkpoint(message.model, message.sha256, start, state, message.step)
