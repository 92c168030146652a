"""The messages between the API process and an engine process, except those of requests and runs.

A message is a list of frames: a JSON array that begins with the kind of message, followed by arrays
as raw bytes in the byte order of the machine, or by protobuf messages. Decoded arrays are views of
the frames.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from twinforce_dynamics.disagreement import SystemDisagreement
from twinforce_proto import ModelInfo, Prediction, Provenance, ServiceError, Timings
from twinforce_proto.codec.messages import model_info_from_proto, model_info_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.engine.report import BatchReport, DeviceMemory, Usage
from twinforce_service.process.channel import Frame
from twinforce_service.process.protocol import protocol, reason_to_refuse
from twinforce_service.scheduling.request import JacobianRows
from twinforce_service.version import service_version


class Kind(StrEnum):
    """The kind of a message: first those of the API process, then those of the engine process."""

    REQUESTS = "requests"
    PROPAGATE = "propagate"
    RELAX = "relax"
    CREDIT = "credit"
    CANCEL = "cancel"
    DROP_CANCELLED = "drop_cancelled"
    STOP = "stop"
    READY = "ready"
    ANSWERS = "answers"
    SNAPSHOT = "snapshot"
    RELAXED = "relaxed"
    REPORTS = "reports"
    ERRORS = "errors"
    STOPPED = "stopped"
    FAILED = "failed"


_FLOAT64 = np.dtype(np.float64)
# Shapes of the arrays of several predictions, one after another.
_SHAPES: dict[str, tuple[int, ...]] = {
    "atom_energies": (-1,),
    "conservative_forces": (-1, 3),
    "direct_forces": (-1, 3),
    "conservative_stress": (-1, 3),
    "direct_stress": (-1, 3),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A received message.

    Attributes:
        kind: Kind of message.
        head: Other values of the JSON array.
        frames: Frames after the JSON array.
    """

    kind: Kind
    head: list[Any]
    frames: list[memoryview]


def read(frames: Sequence[memoryview]) -> Message:
    """Return the message that consists of these frames."""
    first, *rest = frames
    kind, *head = orjson.loads(first)
    return Message(Kind(kind), head, rest)


def plain(kind: Kind, *values: object) -> list[Frame]:
    """Return a message of values that JSON can represent."""
    return [orjson.dumps((kind, *values))]


def answers_to_frames(
    answers: Iterable[tuple[int, Prediction | JacobianRows]], report: BatchReport
) -> list[Frame]:
    """Encode the answers of a batch, each with the number of its request, and its report.

    The arrays of one output of all predictions are one frame.
    """
    entries: list[object] = []
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _SHAPES}
    rows: list[Frame] = []
    for number, answer in answers:
        queue_s = 0.0 if answer.timings is None else answer.timings.queue_s
        if isinstance(answer, JacobianRows):
            entries.append((number, queue_s, None, None))
            rows.append(np.ascontiguousarray(answer.values))
            continue
        lengths = {}
        for name, column in columns.items():
            if (array := getattr(answer, name)) is not None:
                lengths[name] = len(array)
                column.append(array)
        entries.append((number, queue_s, answer.energy, lengths))
    given = {name: joined(column) for name, column in columns.items() if column}
    head = orjson.dumps((Kind.ANSWERS, _report_to_list(report), list(given), *entries))
    return [head, *given.values(), *rows]


def answers_from_message(
    message: Message,
    provenances: Mapping[str, Provenance],
    queue_n_atoms: int | None = None,
) -> tuple[list[tuple[int, Prediction | JacobianRows]], BatchReport]:
    """Decode the answers of a batch and its report.

    Args:
        message: A message of this kind.
        provenances: Provenance of the answers of each model.
        queue_n_atoms: Number of atoms that wait for the device now; None if it is not known.
    """
    raw_report, names, *entries = message.head
    report = _report_from_list(raw_report)
    provenance = provenances[report.model]
    frames = iter(message.frames)
    columns = {name: floats(next(frames), _SHAPES[name]) for name in names}
    starts = dict.fromkeys(names, 0)
    answers: list[tuple[int, Prediction | JacobianRows]] = []
    for number, queue_s, energy, lengths in entries:
        timings = Timings(
            queue_s, report.compute_s, report.n_systems, report.n_atoms, queue_n_atoms
        )
        if lengths is None:
            values = floats(next(frames), (report.n_rows, -1))
            answers.append((number, JacobianRows(values, provenance, timings)))
            continue
        arrays = {}
        for name, length in lengths.items():
            start = starts[name]
            starts[name] = stop = start + length
            arrays[name] = columns[name][start:stop]
        prediction = Prediction(energy, **arrays, provenance=provenance, timings=timings)
        answers.append((number, prediction))
    return answers, report


def reports_to_frames(reports: Iterable[BatchReport]) -> list[Frame]:
    """Encode reports of batches without answers for the API process."""
    return plain(Kind.REPORTS, *map(_report_to_list, reports))


def reports_from_message(message: Message) -> list[BatchReport]:
    """Decode reports of batches."""
    return list(map(_report_from_list, message.head))


def errors_to_frames(errors: Iterable[tuple[int, ServiceError]]) -> list[Frame]:
    """Encode errors, each with the number of its request or run."""
    return plain(Kind.ERRORS, *((number, error.to_dict()) for number, error in errors))


def errors_from_message(message: Message) -> list[tuple[int, ServiceError]]:
    """Decode errors, each with the number of its request or run."""
    return [(number, ServiceError.from_dict(values)) for number, values in message.head]


def models_to_frames(infos: Iterable[ModelInfo]) -> list[Frame]:
    """Encode the declarations of the models of an engine that has become ready."""
    encoded = [model_info_to_proto(info).SerializeToString() for info in infos]
    return [*plain(Kind.READY, service_version(), protocol()), *encoded]


def refusal_of_models(message: Message) -> str | None:
    """Return why the messages of an engine that has become ready are refused, or None."""
    version, theirs = (*message.head, "unknown", "unknown")[:2]
    return reason_to_refuse(version, theirs)


def models_from_message(message: Message) -> list[ModelInfo]:
    """Decode the declarations of the models of an engine."""
    return [
        model_info_from_proto(pb.ModelInfo.FromString(bytes(frame))) for frame in message.frames
    ]


def floats(frame: memoryview, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a read-only view of a frame."""
    array = np.frombuffer(frame, _FLOAT64).reshape(shape)
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of several arrays as one; slices of it take less time than many frames."""
    # Columns that are adjacent in memory, as compiled models return them, would stay so.
    return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _report_to_list(report: BatchReport) -> tuple[object, ...]:
    disagreements = [
        (system.rmse, list(system.by_element), list(system.by_element.values()))
        for system in report.disagreements
    ]
    return (
        report.model,
        report.n_systems,
        report.n_atoms,
        report.queue_s,
        report.compute_s,
        report.n_rows,
        report.held_s,
        disagreements,
        [(each.caller, each.n_systems, each.n_atoms, each.device_s) for each in report.usage],
        report.began,
        report.fill,
        report.n_padding,
        None if report.memory is None else astuple(report.memory),
        report.traces,
    )


def _report_from_list(values: list[Any]) -> BatchReport:
    model, n_systems, n_atoms, queue_s, compute_s, n_rows, held_s, *others = values
    disagreements, usage, began, fill, n_padding, memory, traces = others
    return BatchReport(
        model,
        n_systems,
        n_atoms,
        tuple(queue_s),
        compute_s,
        n_rows,
        held_s,
        tuple(
            SystemDisagreement(rmse, dict(zip(elements, rmses, strict=True)))
            for rmse, elements, rmses in disagreements
        ),
        tuple(Usage(*each) for each in usage),
        began,
        fill,
        n_padding,
        None if memory is None else DeviceMemory(*memory),
        tuple((span, waited) for span, waited in traces),
    )
