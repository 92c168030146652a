"""What is said between the API and an engine process of journeys: how they begin and how they go.

Numbers cross as they are, to the last bit: a checkpoint continues exactly what was told before it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from twinforce_dynamics.codec.propagation import start_from_proto, start_to_proto
from twinforce_dynamics.codec.relaxation import relax_request_from_proto, relax_request_to_proto
from twinforce_dynamics.disagreement import Disagreement
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.steps import Floats
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import Provenance
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.engine.runs import Run, Update
from twinforce_service.process.channel import Frame
from twinforce_service.process.messages import Kind, Message
from twinforce_service.scheduling.request import Walker

# What a journey is: a run from a start or from a checkpoint, or a relaxation.
_START, _CHECKPOINT, _RELAXATION = "start", "checkpoint", "relaxation"
# What is told of it.
_SNAPSHOT, _RELAXED = "snapshot", "relaxed"


def run_to_frames(number: int, run: Run) -> list[Frame]:
    """Encode a journey, with the number that what is told of it will carry."""
    wanted, arrays = _wanted_to_frames(run.wanted)
    walker = run.walker.id
    how = (
        number,
        run.credit,
        run.deadline,
        run.request_id,
        walker,
        run.urgency,
    )
    return [orjson.dumps((Kind.RUN, *how, *wanted)), *arrays]


def run_from_message(
    message: Message, on_update: Callable[[int, Update, bool], None]
) -> tuple[int, Run]:
    """Decode a journey, with the number that what is told of it is to carry.

    Args:
        message: Of this kind.
        on_update: Told of each milestone, with that number, and whether it is the last.
    """
    number, credit, deadline, request_id, walker, urgency, *how = message.head

    def tell(update: Update, is_last: bool) -> None:
        on_update(number, update, is_last)

    wanted = _wanted_from_frames(how, message.arrays)
    run = Run(wanted, tell, credit, deadline, request_id, Walker(walker), urgency)
    return number, run


def update_to_frames(number: int, update: Update, *, is_last: bool) -> list[Frame]:
    """Encode a milestone of the journey with this number, and whether it is the last."""
    if isinstance(update, Snapshot):
        kind, (said, arrays) = _SNAPSHOT, _of_snapshot(update)
    else:
        kind, (said, arrays) = _RELAXED, _of_relaxed(update)
    model = None if update.provenance is None else update.provenance.model
    return [orjson.dumps((Kind.UPDATE, number, is_last, kind, model, *said)), *arrays]


def update_from_message(
    message: Message, provenances: Mapping[str, Provenance]
) -> tuple[int, Update, bool]:
    """Decode a milestone, with the number of its journey, and whether it is the last.

    Args:
        message: Of this kind.
        provenances: What the milestones of each model say of what made them.
    """
    number, is_last, kind, model, *said = message.head
    decode = _snapshot if kind == _SNAPSHOT else _relaxed
    return number, decode(said, message.arrays, provenances.get(model)), is_last


def _wanted_to_frames(
    wanted: PropagateRequest | RelaxRequest,
) -> tuple[tuple[object, ...], list[Frame]]:
    if isinstance(wanted, RelaxRequest):
        return (_RELAXATION,), [relax_request_to_proto(wanted).SerializeToString()]
    how = wanted.model, wanted.n_steps, wanted.interval
    if isinstance(wanted.origin, bytes):
        return (_CHECKPOINT, *how), [wanted.origin]
    start = start_to_proto(wanted.origin, with_velocities=False).SerializeToString()
    return (_START, *how), [start, np.ascontiguousarray(wanted.origin.velocities)]


def _wanted_from_frames(
    how: Sequence[Any], arrays: Sequence[memoryview]
) -> PropagateRequest | RelaxRequest:
    kind, *steps = how
    data = bytes(arrays[0])
    if kind == _RELAXATION:
        return relax_request_from_proto(pb.RelaxRequest.FromString(data))
    model, n_steps, interval = steps
    origin = data if kind == _CHECKPOINT else _start(data, _floats(arrays[1], (-1, 3)))
    return PropagateRequest(model, origin, n_steps, interval)


def _start(data: bytes, velocities: Floats) -> Start:
    start = start_from_proto(pb.Start.FromString(data), with_velocities=False)
    return start.moved(start.system, velocities, start.random_state)


def _of_snapshot(snapshot: Snapshot) -> tuple[tuple[object, ...], list[Frame]]:
    apart = snapshot.disagreement
    temperatures = snapshot.species_temperatures
    numbers = [
        snapshot.time_fs,
        snapshot.energy,
        snapshot.kinetic_energy,
        snapshot.conserved_energy,
        snapshot.temperature_k,
        *temperatures.values(),
    ]
    if apart is not None:
        species = (apart.species_rmse[symbol] for symbol in temperatures)
        numbers += (apart.rmse, apart.work, apart.total_work, *species)
    active = (snapshot.positions, snapshot.velocities, snapshot.cell)
    said = snapshot.step, list(temperatures)
    return said, [
        np.array(numbers),  # as JSON has no NaN
        *map(np.ascontiguousarray, active),
        snapshot.checkpoint,
    ]


def _snapshot(
    said: Sequence[Any], arrays: Sequence[memoryview], provenance: Provenance | None
) -> Snapshot:
    step, symbols = said
    numbers, positions, velocities, cell, checkpoint = arrays
    time_fs, energy, kinetic, conserved, temperature, *rest = _floats(numbers, (-1,)).tolist()
    n_species = len(symbols)
    temperatures, apart = rest[:n_species], rest[n_species:]
    disagreement = None
    if apart:
        rmse, work, total_work, *species = apart
        species_rmse = dict(zip(symbols, species, strict=True))
        disagreement = Disagreement(rmse, species_rmse, work, total_work)
    return Snapshot(
        step=step,
        time_fs=time_fs,
        positions=_floats(positions, (-1, 3)),
        velocities=_floats(velocities, (-1, 3)),
        cell=_floats(cell, (3, 3)),
        energy=energy,
        kinetic_energy=kinetic,
        conserved_energy=conserved,
        temperature_k=temperature,
        species_temperatures=dict(zip(symbols, temperatures, strict=True)),
        disagreement=disagreement,
        checkpoint=bytes(checkpoint),
        provenance=provenance,
    )


def _of_relaxed(relaxed: Relaxed) -> tuple[tuple[object, ...], list[Frame]]:
    numbers = np.array([relaxed.energy, relaxed.largest_force])
    said = relaxed.step, relaxed.driven_by, relaxed.is_converged, relaxed.is_last
    return said, [numbers, np.ascontiguousarray(relaxed.positions)]


def _relaxed(
    said: Sequence[Any], arrays: Sequence[memoryview], provenance: Provenance | None
) -> Relaxed:
    step, driven_by, is_converged, is_last = said
    energy, largest_force = _floats(arrays[0], (2,)).tolist()
    return Relaxed(
        step=step,
        positions=_floats(arrays[1], (-1, 3)),
        energy=energy,
        largest_force=largest_force,
        driven_by=driven_by,
        is_converged=is_converged,
        is_last=is_last,
        provenance=provenance,
    )


def _floats(frame: memoryview, shape: tuple[int, ...]) -> Floats:
    array: Floats = np.frombuffer(frame, np.float64).reshape(shape)
    array.flags.writeable = False
    return array
