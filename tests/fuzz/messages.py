"""Messages that are almost valid: bytes of valid ones with some of them changed."""

import json
import random

from tests.systems import crystal, molecule
from twinforce_proto.codec.messages import system_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

SYSTEM = system_to_proto(molecule(3))
CRYSTAL = system_to_proto(crystal(4))
START = pb.Start(
    system=SYSTEM,
    velocities=pb.Array(data=bytes(72)),
    integrator=pb.Integrator(force_kind=1, inner_steps=1, time_step_fs=1.0),
    seed=1,
)
MESSAGES = {
    "Predict": pb.PredictRequest(model="soft", systems=[SYSTEM, CRYSTAL], outputs=[1, 3]),
    "Nonconservativity": pb.NonconservativityRequest(model="soft", system=SYSTEM, output=4),
    "Propagate": pb.PropagateRequest(model="soft", start=START, n_steps=2, interval=1),
    "Relax": pb.RelaxRequest(model="soft", system=SYSTEM, force_kind=1, max_steps=2),
    "GetModel": pb.GetModelRequest(model="soft"),
    "GetStatus": pb.GetStatusRequest(),
    "PredictStream": pb.StreamRequest(model="soft", system=CRYSTAL, outputs=[1]),
}
_SYSTEM_JSON = {"atomic_numbers": [18, 10], "positions": [[0.0, 0, 0], [3.0, 0, 0]], "pbc": False}
_INTEGRATOR = {"force_kind": "conservative", "time_step_fs": 1.0}
_START_JSON = {"system": _SYSTEM_JSON, "velocities": [[0, 0, 0]] * 2, "integrator": _INTEGRATOR}
BODIES = {
    "predict": {"systems": [_SYSTEM_JSON] * 2, "outputs": ["hybrid"]},
    "nonconservativity": {"system": _SYSTEM_JSON, "output": "direct_forces"},
    "propagate": {"start": _START_JSON, "n_steps": 2},
    "relax": {"system": _SYSTEM_JSON, "max_steps": 2},
}
METHODS = {
    "predict": "Predict",
    "nonconservativity": "Nonconservativity",
    "propagate": "Propagate",
    "relax": "Relax",
}
_VALUES = [
    None,
    True,
    -1,
    0,
    2**63,
    2**200,
    1e308,
    -0.5,
    "",
    "a" * 40,
    "\x00",
    [],
    {},
    [[]],
    [None],
]
_LARGE = [2**63, 2**200, 10**400, "a" * 200_000]
_BYTES = [b"", b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff" * 9, b"\x12\x00", b"\xf0\x7f", b"\x0b"]


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return bytes some of which were replaced, removed, repeated or exchanged."""
    for _ in range(chance.randint(1, 4)):
        begin = chance.randint(0, len(data))
        end = min(len(data), begin + chance.choice([0, 1, 1, 2, 8, 40]))
        middle = chance.choice([*_BYTES, data[begin:end] * 2, chance.randbytes(3)])
        data = data[:begin] + middle + data[end:]
    return data


def changed_value(value: object, chance: random.Random) -> object:
    """Return a value of JSON in which one part, at any depth, is another."""
    if chance.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return chance.choice(_VALUES)
    if isinstance(value, list):
        index = chance.randrange(len(value))
        return [*value[:index], changed_value(value[index], chance), *value[index + 1 :]]
    key = chance.choice(sorted(value))
    if chance.random() < 0.1:
        return {name: each for name, each in value.items() if name != key} | {key + "x": value[key]}
    return value | {key: changed_value(value[key], chance)}


def enlarged_value(value: object, chance: random.Random) -> object:
    """Return a value of JSON in which one number or text, at any depth, is a large one."""
    if not isinstance(value, dict | list) or not value:
        return chance.choice(_LARGE)
    if isinstance(value, list):
        index = chance.randrange(len(value))
        return [*value[:index], enlarged_value(value[index], chance), *value[index + 1 :]]
    key = chance.choice(sorted(value))
    return value | {key: enlarged_value(value[key], chance)}


def body_of(path: str, chance: random.Random) -> tuple[bytes, str]:
    """Return a changed body for a path, and its media type."""
    if chance.random() < 0.4:
        message = MESSAGES[METHODS[path]].SerializeToString()
        return changed_bytes(message, chance), "application/x-protobuf"
    body = json.dumps(changed_value(BODIES[path], chance)).encode()
    is_broken = chance.random() < 0.3
    return changed_bytes(body, chance) if is_broken else body, "application/json"
