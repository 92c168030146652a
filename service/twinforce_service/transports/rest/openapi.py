"""What /docs and /openapi.json say beyond what the code of the paths says itself."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from twinforce_proto import (
    OUTPUTS,
    UNITS,
    DeadlineExceededError,
    InvalidSystemError,
    OverloadedError,
    PredictionError,
    ServiceError,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
)
from twinforce_proto.codec.problem import error_to_problem
from twinforce_proto.headers import JSON, JSON_LINES, PROBLEM, PROTOBUF
from twinforce_service.transports.rest.bodies import (
    NonconservativityBody,
    PredictBody,
    SystemsBody,
)
from twinforce_service.transports.rest.dynamics_bodies import PropagateBody, RelaxBody

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """\
Energies and forces of atomistic systems from machine-learned interatomic potentials.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å³ (tension > 0). A model may have
two kinds of forces: *conservative* ones, the gradient of its energy, and *direct* ones, a cheaper
head of their own that is no gradient. `hybrid` gives both from one evaluation.

Every path that takes JSON also takes a serialized `twinforce.v1.PredictRequest` and answers with a
`twinforce.v1.PredictReply`, as `application/x-protobuf`: the messages of the gRPC API, which is
served on a port of its own. Errors are problem details (RFC 9457) in either case.

`propagate` moves a system on the server, with either kind of forces or with both, and answers with
lines of JSON as it moves; its message is `PropagateRequest`.

`nonconservativity` tells how far direct forces are from being a gradient; its messages are
`NonconservativityRequest` and `NonconservativityReply`. It takes a backward pass for each
coordinate of the system, so give it time; other callers are served in between.
"""

_WATER = {
    "atomic_numbers": [8, 1, 1],
    "positions": [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]],
}
_BOX = {"cell": [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], "pbc": [True, True, True]}
_PROVENANCE = {
    "model": "water",
    "version": "1",
    "sha256": "66336559c8cd…",
    "dtype": "float32",
    "device": "cpu",
    "service_version": "0.1.0",
}
_TIMINGS = {"queue_s": 0.0004, "compute_s": 0.0121, "batch_n_systems": 8, "batch_n_atoms": 24}
_VALUES: dict[str, Any] = {
    "energy": -469.048,
    "conservative_forces": [[0.0, 0.0, -0.758], [0.0, -0.384, 0.379], [0.0, 0.384, 0.379]],
    "direct_forces": [[0.0, 0.0, -0.731], [0.0, -0.370, 0.366], [0.0, 0.370, 0.366]],
    "conservative_stress": [[0.0, 0.0, 0.0], [0.0, 0.000803, 0.0], [0.0, 0.0, 0.000620]],
}
_NONCONSERVATIVITY = {
    "model": "water",
    "value": 0.00167,
    "jacobian_norm": 142.2,
    "antisymmetric_norm": 0.237,
    "pair_norms": [[75.9, 48.5, 48.5], [48.5, 50.0, 5.31], [48.5, 5.31, 50.0]],
    "antisymmetric_pair_norms": [[0.0, 0.097, 0.097], [0.097, 0.096, 0.01], [0.097, 0.01, 0.096]],
    "provenance": _PROVENANCE,
    "timings": _TIMINGS,
}
_START = {
    "start": {
        "system": _WATER,
        "velocities": [[0.0, 0.001, 0.0], [0.0, -0.02, 0.01], [0.001, 0.004, -0.01]],
        "integrator": {
            "force_kind": "hybrid",
            "inner_steps": 4,
            "time_step_fs": 0.5,
            "svr": {"temperature_k": 300.0, "relaxation_fs": 100.0},
        },
        "seed": 1,
    },
    "n_steps": 80,
    "interval": 40,
}
_SNAPSHOT = {
    "step": 80,
    "time_fs": 40.0,
    "positions": _WATER["positions"],
    "velocities": _START["start"]["velocities"],  # type: ignore[index]
    "cell": [[0.0, 0.0, 0.0]] * 3,
    "energy": -469.048,
    "kinetic_energy": 0.116,
    "conserved_energy": -468.931,
    "temperature_k": 300.1,
    "species_temperatures": {"H": 290.4, "O": 319.5},
    "disagreement": {
        "rmse": 0.031,
        "species_rmse": {"H": 0.029, "O": 0.034},
        "work": -0.0002,
        "total_work": -0.0041,
    },
    "checkpoint": "Chd0d2luZm9yY2U…",
    "provenance": _PROVENANCE,
}
_RELAXED = {
    "step": 31,
    "positions": _WATER["positions"],
    "energy": -469.061,
    "largest_force": 0.014,
    "driven_by": "conservative",
    "is_converged": True,
    "is_last": True,
    "provenance": _PROVENANCE,
}
_GIVEN = {
    "energy": ("energy",),
    "conservative-forces": ("energy", "conservative_forces"),
    "direct-forces": ("energy", "direct_forces"),
    "predict": ("energy", "conservative_forces", "direct_forces", "conservative_stress"),
}
_SUMMARIES = {
    "energy": "Energies",
    "conservative-forces": "Energies and conservative forces",
    "direct-forces": "Energies and direct forces",
    "predict": "Any outputs",
}
_TEXTS = {
    "energy": "Evaluate the energy of each system.",
    "conservative-forces": "Evaluate energies and their gradients, -dE/dr.",
    "direct-forces": "Evaluate energies and the force head, without any gradient.",
    "predict": "Evaluate any set of outputs, both kinds of forces and stresses included.",
}
_INFO = {
    "name": "water",
    "version": "1",
    "sha256": "66336559c8cd…",
    "architecture": "hybrid_net",
    "cutoff": 4.5,
    "elements": [1, 8],
    "dtype": "float32",
    "device": "cpu",
    "outputs": list(OUTPUTS),
    "n_parameters": 231682,
    "uses_charge": False,
    "uses_spin": False,
    "units": dict(UNITS),
    "metadata": {"level_of_theory": "revPBE0-D3 (CP2K)", "licence": "CC-BY-SA-4.0"},
    "card": "# water 1 …",
}
_HEADERS = (
    ("X-Timeout-Seconds", "number", "How long the caller waits; what is late is not computed."),
    ("X-Urgency", "integer", "From 0, the most urgent, to 7; 3 where nothing is said."),
    ("X-Request-ID", "string", "A name for the request; comes back, and is in the logs."),
)


class Problem(BaseModel):
    """What went wrong: problem details, RFC 9457."""

    type: str = Field(description="urn:twinforce:error: and the class of the error.")
    title: str = Field(description="What this class of errors means.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was expected and what came.")
    system_index: int | None = Field(None, description="Which system is meant, from 0.")
    field: str | None = Field(None, description="Which field is meant.")
    retry_after: float | None = Field(None, description="Seconds after which to try again.")


def complete(app: FastAPI) -> None:
    """Make the OpenAPI description of an application hold the schemas of its bodies."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schemas = app.openapi_schema.setdefault("components", {}).setdefault("schemas", {})
            schemas |= _schemas()
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def of_path(path: str) -> dict[str, Any]:
    """Return how a path that predicts is described."""
    kind = PredictBody if path == "predict" else SystemsBody
    return {
        "name": path,
        "summary": _SUMMARIES[path],
        "description": _TEXTS[path],
        "responses": {200: _given(_reply_example(path), "PredictReply")} | _PREDICTION_PROBLEMS,
        "openapi_extra": _asked(kind, _request_examples(path), "PredictRequest"),
    }


def _asked(kind: type[BaseModel], examples: object, message: str) -> dict[str, Any]:
    """Return how what is sent is described: headers, and a body in either form."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    json_body = {"schema": schema, "examples": examples}
    return {
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": kind_}}
            for name, kind_, text in _HEADERS
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: json_body, PROTOBUF: _message(message)},
        },
    }


def _given(example: object, message: str = "") -> dict[str, Any]:
    """Return how a reply is described: as JSON, and as a message where it can be one."""
    protobuf = {PROTOBUF: _message(message)} if message else {}
    return {"description": "OK", "content": {JSON: {"example": example}} | protobuf}


def _message(name: str) -> dict[str, Any]:
    text = f"A serialized twinforce.v1.{name}."
    return {"schema": {"type": "string", "format": "binary", "description": text}}


def _problem(error: ServiceError) -> dict[str, Any]:
    return {
        "description": f"{type(error).__doc__}",
        "content": {
            PROBLEM: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": error_to_problem(error),
            }
        },
    }


def _problems(*errors: ServiceError) -> Responses:
    return {error.http_status: _problem(error) for error in errors}


def _request_examples(path: str) -> dict[str, Any]:
    asked = {"outputs": list(_GIVEN[path])} if path == "predict" else {}
    periodic = {"systems": [_WATER | _BOX]} | asked
    molecule: dict[str, Any] = {"systems": [_WATER]}
    if path == "predict":
        molecule["outputs"] = ["hybrid"]
    return {
        "periodic": {"summary": "One molecule in a periodic box", "value": periodic},
        "molecule": {"summary": "One molecule in open space", "value": molecule},
    }


def _reply_example(path: str) -> dict[str, Any]:
    return {
        "model": "water",
        "predictions": [{name: _VALUES[name] for name in _GIVEN[path]}],
        "provenance": _PROVENANCE,
        "timings": _TIMINGS,
    }


def _schemas() -> dict[str, Any]:
    kinds = [
        (kind, "validation")
        for kind in (
            PredictBody,
            SystemsBody,
            NonconservativityBody,
            PropagateBody,
            RelaxBody,
            Problem,
        )
    ]
    _, schema = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


_UNKNOWN = UnknownModelError("model: no model is called 'ice'; served: water", field="model")
_STARTING = UnavailableError("the service is starting: its models are loading", retry_after=1.0)
_PREDICTION_PROBLEMS = _problems(
    _UNKNOWN,
    SystemTooLargeError("expected at most 20000 atoms, got 30000", system_index=0),
    InvalidSystemError(
        "positions: expected shape [3, 3], got shape [2, 3]", system_index=3, field="positions"
    ),
    OverloadedError(
        "4096 systems of 786432 atoms are already waiting; try again later", retry_after=2.0
    ),
    PredictionError("the model failed on this system: RuntimeError: …", system_index=0),
    _STARTING,
    DeadlineExceededError("not evaluated within 0.5 s"),
)
NONCONSERVATIVITY: dict[str, Any] = {
    "name": "nonconservativity",
    "summary": "How far direct forces are from being a gradient",
    "description": "Evaluate λ = ‖(J - Jᵀ)/2‖ / ‖J‖ of one system, where J = ∂f/∂r is the Jacobian "
    "of its forces without net force, in eV/Å²: 0 for a gradient. If asked, also the norm of the "
    "3 x 3 block of each pair of atoms.",
    "responses": {200: _given(_NONCONSERVATIVITY, "NonconservativityReply")} | _PREDICTION_PROBLEMS,
    "openapi_extra": _asked(
        NonconservativityBody,
        {
            "periodic": {"summary": "In a periodic box", "value": {"system": _WATER | _BOX}},
            "pairs": {
                "summary": "With the norms of each pair of atoms",
                "value": {"system": _WATER, "output": "direct_forces", "pairs": True},
            },
        },
        "NonconservativityRequest",
    ),
}
PROPAGATE: dict[str, Any] = {
    "name": "propagate",
    "summary": "Molecular dynamics beside the model",
    "description": "Move a system and answer with a line of JSON for each snapshot, as it moves: "
    "the start, one at each interval, the end. Systems of different callers share batches at each "
    "step. Nothing is computed ahead of what is read, and nothing after the connection was closed. "
    'An error on the way is the last line, `{"error": ...}` with problem details; the checkpoint '
    "of the line before goes on from there. Velocities are in Å/fs.",
    "responses": {200: {"description": "OK", "content": {JSON_LINES: {"example": _SNAPSHOT}}}}
    | _PREDICTION_PROBLEMS,
    "openapi_extra": _asked(
        PropagateBody,
        {"start": {"summary": "Multiple time stepping with a thermostat", "value": _START}},
        "PropagateRequest",
    ),
}
RELAX: dict[str, Any] = {
    "name": "relax",
    "summary": "Relaxation beside the model",
    "description": "Relax a system in its cell, by FIRE, and answer with lines of JSON as "
    "`propagate` does: how far it is at each interval, and the end last. Hybrid relaxation goes "
    "down on direct forces and finishes on conservative ones.",
    "responses": {200: {"description": "OK", "content": {JSON_LINES: {"example": _RELAXED}}}}
    | _PREDICTION_PROBLEMS,
    "openapi_extra": _asked(
        RelaxBody,
        {"molecule": {"summary": "One molecule", "value": {"system": _WATER, "fmax": 0.02}}},
        "RelaxRequest",
    ),
}
LIVE: Responses = {200: _given({"status": "live"}), **_problems(_STARTING)}
READY: Responses = {200: _given({"status": "ready", "models": ["water"]}), **_problems(_STARTING)}
METRICS: Responses = {
    200: {"description": "OK", "content": {"text/plain": {"example": "twinforce_evaluations …"}}}
}
MODELS: Responses = {200: _given({"models": [_INFO]})}
MODEL: Responses = {200: _given(_INFO), **_problems(_UNKNOWN, _STARTING)}
