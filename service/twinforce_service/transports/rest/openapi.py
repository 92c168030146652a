"""The OpenAPI description of the REST API, beyond the part that FastAPI derives from the code."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
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
from twinforce_service.transports.rest import examples, texts
from twinforce_service.transports.rest.bodies import (
    NonconservativityBody,
    PredictBody,
    SystemsBody,
)
from twinforce_service.transports.rest.dynamics_bodies import PropagateBody, RelaxBody
from twinforce_service.transports.rest.replies import (
    REPLIES,
    LiveReply,
    ModelReply,
    ModelsReply,
    NonconservativityReply,
    OpenRequestReply,
    PredictionsReply,
    Problem,
    ReadyReply,
    RelaxedReply,
    SnapshotReply,
    StatusReply,
)

Responses = dict[int | str, dict[str, Any]]

_TEXT = {"type": "string"}
_HEADERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "X-Timeout-Seconds",
        {"type": "number", "exclusiveMinimum": 0},
        "Seconds to wait for the reply; systems that are late are not evaluated.",
    ),
    (
        "X-Urgency",
        {"type": "integer", "minimum": 0, "maximum": 7},
        "Urgency from 0, the most urgent, to 7; 3 by default.",
    ),
    ("X-Watch-Id", _TEXT, "Name under which `/v1/requests/{watch_id}` describes the request."),
    ("X-Request-ID", _TEXT, "Identifier of the request, which the reply and the logs repeat."),
)
# Answers that come before a path sees the request, by their HTTP status.
_BEFORE = {
    401: "The service asks for a key, and none came or it is wrong.",
    403: "The key does not allow this.",
    421: "The header Host has another name than those of this service.",
    429: "Too many wrong keys came from this address.",
}
_OPEN_PATHS = {"/health/live"}


def complete(app: FastAPI, others: Sequence[type[BaseModel]], *, needs_key: bool) -> None:
    """Add bodies, keys and what comes before all paths to the description of an application.

    Args:
        app: The application.
        others: Bodies of other protocols.
        needs_key: True if requests need a key.
    """

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                license_info=app.license_info,
                contact=app.contact,
                servers=app.servers,
                tags=app.openapi_tags,
            )
            # What holds where an operation says nothing else.
            app.openapi_schema["security"] = []
            app.openapi_schema["components"] = {
                "schemas": _schemas(others),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            }
            for path, methods in app.openapi_schema["paths"].items():
                for operation in methods.values():
                    _describe_gate(operation, is_open=path in _OPEN_PATHS, needs_key=needs_key)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe_gate(operation: dict[str, Any], *, is_open: bool, needs_key: bool) -> None:
    """Add to a description all that may come before its path sees a request.

    FastAPI adds an answer for parameters that it finds invalid. Ours are texts, and all are valid.
    """
    answers = operation["responses"]
    answers["400"] = problem_docs("The request is not valid HTTP.")
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    if not is_open:
        answers |= {
            str(status): problem_docs(text)
            for status, text in _BEFORE.items()
            if str(status) not in answers
        }
        operation["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]


def prediction_docs(path: str) -> dict[str, Any]:
    """Return the description of a path that predicts."""
    kind = PredictBody if path == "predict" else SystemsBody
    reply = reply_docs(PredictionsReply, examples.prediction_reply(path), "PredictReply")
    return {
        "summary": texts.SUMMARIES[path],
        "description": texts.DESCRIPTIONS[path],
        "responses": {200: reply} | PREDICTION_PROBLEMS,
        "openapi_extra": request_docs(kind, examples.prediction_requests(path), "PredictRequest"),
    }


def headers_docs() -> list[dict[str, Any]]:
    """Return the descriptions of the headers of a request."""
    return [
        {"name": name, "in": "header", "description": text, "schema": schema}
        for name, schema, text in _HEADERS
    ]


def request_docs(kind: type[BaseModel], examples: object, message: str) -> dict[str, Any]:
    """Return the description of a request: its headers, and its body as JSON or protobuf."""
    json_body = {"schema": reference(kind), "examples": examples}
    return {
        "parameters": headers_docs(),
        "requestBody": {
            "required": True,
            "content": {JSON: json_body, PROTOBUF: _message(message)},
        },
    }


def reply_docs(kind: type[BaseModel], example: object, message: str = "") -> dict[str, Any]:
    """Return the description of a reply: as JSON, and as protobuf if there is a message."""
    protobuf = {PROTOBUF: _message(message)} if message else {}
    json_body = {"schema": reference(kind), "example": example}
    return {"description": "OK", "content": {JSON: json_body} | protobuf}


def _lines(kind: type[BaseModel], example: object) -> dict[str, Any]:
    """Return the description of a reply of JSON lines, each of which has the schema.

    OpenAPI 3.1 has no word for the schema of a line.
    """
    json_lines = {"schema": reference(kind), "example": example}
    return {"description": "Lines of this schema.", "content": {JSON_LINES: json_lines}}


def reference(kind: type[BaseModel]) -> dict[str, str]:
    """Return a reference to the schema of a body."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _message(name: str) -> dict[str, Any]:
    text = f"A serialized twinforce.v1.{name}."
    return {"schema": {"type": "string", "format": "binary", "description": text}}


def _problem(error: ServiceError) -> dict[str, Any]:
    docs = problem_docs(f"{type(error).__doc__}")
    docs["content"][PROBLEM]["example"] = error_to_problem(error)
    return docs


def problem_docs(text: str) -> dict[str, Any]:
    """Return the description of problem details that mean this."""
    return {"description": text, "content": {PROBLEM: {"schema": reference(Problem)}}}


def problems(*errors: ServiceError) -> Responses:
    """Return the descriptions of these errors, by their HTTP status."""
    return {error.http_status: _problem(error) for error in errors}


def _schemas(others: Sequence[type[BaseModel]]) -> dict[str, Any]:
    kinds = [
        (kind, "validation")
        for kind in (
            PredictBody,
            SystemsBody,
            NonconservativityBody,
            PropagateBody,
            RelaxBody,
            *REPLIES,
            *others,
        )
    ]
    _, schema = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    _simplify(definitions)
    return definitions


def _simplify(part: Any) -> None:
    """Describe tuples of equal members as arrays of a fixed length, which more programs know."""
    if isinstance(part, list):
        for each in part:
            _simplify(each)
    elif isinstance(part, dict):
        members = part.get("prefixItems")
        if members and all(each == members[0] for each in members):
            part["items"] = part.pop("prefixItems")[0]
        for each in part.values():
            _simplify(each)


_UNKNOWN = UnknownModelError("model: no model is called 'ice'; served: water", field="model")
_STARTING = UnavailableError("the service is starting: its models are loading", retry_after=1.0)
_MEDIA_TYPE: Responses = {415: problem_docs("The body has a media type that no path reads.")}
PREDICTION_PROBLEMS = _MEDIA_TYPE | problems(
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
_NONCONSERVATIVITY = reply_docs(
    NonconservativityReply, examples.NONCONSERVATIVITY, "NonconservativityReply"
)
NONCONSERVATIVITY: dict[str, Any] = {
    "summary": "Nonconservativity of direct forces",
    "description": "Evaluate λ = ‖(J - Jᵀ)/2‖ / ‖J‖ of one system, where J = ∂f/∂r is the Jacobian "
    "of its forces without net force, in eV/Å²; λ is 0 for a gradient. On request, also evaluate "
    "the norm of the 3 x 3 block of each pair of atoms.",
    "responses": {200: _NONCONSERVATIVITY} | PREDICTION_PROBLEMS,
    "openapi_extra": request_docs(
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
    "responses": {200: _lines(SnapshotReply, examples.SNAPSHOT)} | PREDICTION_PROBLEMS,
    "openapi_extra": request_docs(
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
    "responses": {200: _lines(RelaxedReply, examples.RELAXED)} | PREDICTION_PROBLEMS,
    "openapi_extra": request_docs(
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
LIVE: Responses = {200: reply_docs(LiveReply, {"status": "live"}), **problems(_STARTING)}
_READY = {"status": "ready", "models": ["water"], "unavailable": ["mace"]}
READY: Responses = {200: reply_docs(ReadyReply, _READY), **problems(_STARTING)}
STATUS: Responses = {200: reply_docs(StatusReply, examples.STATUS, "ServiceStatus")}
OPEN_REQUEST: Responses = {200: reply_docs(OpenRequestReply, {"is_open": True, "n_lines_sent": 0})}
METRICS: Responses = {
    200: {
        "description": "OK",
        "content": {"text/plain": {"schema": _TEXT, "example": "twinforce_evaluations …"}},
    }
}
MODELS: Responses = {200: reply_docs(ModelsReply, {"models": [examples.INFO]}, "ListModelsReply")}
MODEL: Responses = {
    200: reply_docs(ModelReply, examples.INFO, "ModelInfo"),
    **problems(_UNKNOWN, _STARTING),
}
