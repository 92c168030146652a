"""The OpenAPI description of the REST API, beyond the part that FastAPI derives from the code."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from twinforce_proto import (
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
from twinforce_service.transports.rest import examples
from twinforce_service.transports.rest.bodies import (
    NonconservativityBody,
    PredictBody,
    SystemsBody,
)
from twinforce_service.transports.rest.dynamics_bodies import PropagateBody, RelaxBody

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """\
Energies and forces of atomistic systems from machine-learned interatomic potentials.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å³ (tension > 0), per the volume of
the cell whether the system is periodic or not. A model may have two kinds of forces: *conservative*
forces are the negative gradient of its energy; *direct* forces come from a separate, cheaper head
and are not a gradient. `hybrid` returns both from one evaluation.

Every path that takes JSON also takes a serialized message of the gRPC API as
`application/x-protobuf`; predictions, for example, take a `twinforce.v1.PredictRequest` and return
a `twinforce.v1.PredictReply`. The gRPC API itself is served on another port. Errors are problem
details (RFC 9457) in either case.

`propagate` and `relax` move a system on the server, with either kind of forces or with both, and
reply with a line of JSON for each update.

`nonconservativity` measures how far forces are from being a gradient. It takes a backward pass for
each coordinate of the system, so use a long timeout; other requests are served in between.
"""

_SUMMARIES = {
    "energy": "Energies",
    "conservative-forces": "Energies and conservative forces",
    "direct-forces": "Energies and direct forces",
    "predict": "Any outputs",
}
_TEXTS = {
    "energy": "Evaluate the energy of each system.",
    "conservative-forces": "Evaluate energies and conservative forces, -dE/dr.",
    "direct-forces": "Evaluate energies and direct forces, without any gradient.",
    "predict": "Evaluate any set of outputs, including both kinds of forces and stresses.",
}
_HEADERS = (
    (
        "X-Timeout-Seconds",
        "number",
        "Seconds to wait for the reply; systems that are late are not evaluated.",
    ),
    ("X-Urgency", "integer", "Urgency from 0, the most urgent, to 7; 3 by default."),
    ("X-Watch-Id", "string", "Name under which `/v1/requests/{watch_id}` describes the request."),
    (
        "X-Request-ID",
        "string",
        "Identifier of the request, which the reply and the logs repeat.",
    ),
)


class Problem(BaseModel):
    """Problem details of an error, RFC 9457."""

    type: str = Field(description="Class of the error, after urn:twinforce:error:.")
    title: str = Field(description="Meaning of this class of errors.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Expected and received values.")
    system_index: int | None = Field(
        None, description="Index, from 0, of the system that the error is about."
    )
    field: str | None = Field(None, description="Name of the field that the error is about.")
    retry_after: float | None = Field(None, description="Seconds after which to try again.")


def add_body_schemas(app: FastAPI) -> None:
    """Add the schemas of all bodies to the OpenAPI description of an application."""

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


def prediction_docs(path: str) -> dict[str, Any]:
    """Return the description of a path that predicts."""
    kind = PredictBody if path == "predict" else SystemsBody
    reply = _reply_docs(examples.prediction_reply(path), "PredictReply")
    return {
        "summary": _SUMMARIES[path],
        "description": _TEXTS[path],
        "responses": {200: reply} | _PREDICTION_PROBLEMS,
        "openapi_extra": _request_docs(kind, examples.prediction_requests(path), "PredictRequest"),
    }


def _request_docs(kind: type[BaseModel], examples: object, message: str) -> dict[str, Any]:
    """Return the description of a request: its headers, and its body as JSON or protobuf."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    json_body = {"schema": schema, "examples": examples}
    return {
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": json_type}}
            for name, json_type, text in _HEADERS
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: json_body, PROTOBUF: _message(message)},
        },
    }


def _reply_docs(example: object, message: str = "") -> dict[str, Any]:
    """Return the description of a reply: as JSON, and as protobuf if there is a message."""
    protobuf = {PROTOBUF: _message(message)} if message else {}
    return {"description": "OK", "content": {JSON: {"example": example}} | protobuf}


def _lines(example: object) -> dict[str, Any]:
    """Return the description of a reply of JSON lines."""
    return {"description": "OK", "content": {JSON_LINES: {"example": example}}}


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
    "summary": "Nonconservativity of direct forces",
    "description": "Evaluate λ = ‖(J - Jᵀ)/2‖ / ‖J‖ of one system, where J = ∂f/∂r is the Jacobian "
    "of its forces without net force, in eV/Å²; λ is 0 for a gradient. On request, also evaluate "
    "the norm of the 3 x 3 block of each pair of atoms.",
    "responses": {200: _reply_docs(examples.NONCONSERVATIVITY, "NonconservativityReply")}
    | _PREDICTION_PROBLEMS,
    "openapi_extra": _request_docs(
        NonconservativityBody,
        {
            "periodic": {
                "summary": "In a periodic box",
                "value": {"system": examples.WATER | examples.BOX},
            },
            "pairs": {
                "summary": "With the norms of each pair of atoms",
                "value": {"system": examples.WATER, "output": "direct_forces", "pairs": True},
            },
        },
        "NonconservativityRequest",
    ),
}
PROPAGATE: dict[str, Any] = {
    "summary": "Molecular dynamics on the server",
    "description": "Propagate a system and reply with a line of JSON for each snapshot: the start, "
    "one at each interval, and the end. Runs of different clients share batches at each step. At "
    "most two snapshots are computed ahead of the client, and none after it disconnects. An error "
    'during the run is the last line, `{"error": ...}` with problem details; resume from the '
    "checkpoint of the line before. Velocities are in Å/fs.",
    "responses": {200: _lines(examples.SNAPSHOT)} | _PREDICTION_PROBLEMS,
    "openapi_extra": _request_docs(
        PropagateBody,
        {"start": {"summary": "Multiple time stepping with a thermostat", "value": examples.START}},
        "PropagateRequest",
    ),
}
RELAX: dict[str, Any] = {
    "summary": "Relaxation on the server",
    "description": "Relax a system in its cell by FIRE, and reply with lines of JSON as "
    "`propagate` does: a report at each interval, and one at the end. Hybrid relaxation descends "
    "on direct forces and finishes on conservative forces.",
    "responses": {200: _lines(examples.RELAXED)} | _PREDICTION_PROBLEMS,
    "openapi_extra": _request_docs(
        RelaxBody,
        {
            "molecule": {
                "summary": "A molecule",
                "value": {"system": examples.WATER, "fmax": 0.02},
            }
        },
        "RelaxRequest",
    ),
}
LIVE: Responses = {200: _reply_docs({"status": "live"}), **_problems(_STARTING)}
READY: Responses = {
    200: _reply_docs({"status": "ready", "models": ["water"], "unavailable": ["mace"]}),
    **_problems(_STARTING),
}
OPEN_REQUEST: Responses = {200: _reply_docs({"is_open": True, "n_lines_sent": 0})}
METRICS: Responses = {
    200: {"description": "OK", "content": {"text/plain": {"example": "twinforce_evaluations …"}}}
}
MODELS: Responses = {200: _reply_docs({"models": [examples.INFO]})}
MODEL: Responses = {200: _reply_docs(examples.INFO), **_problems(_UNKNOWN, _STARTING)}
