"""Structured logs with the ids of requests and traces, as text or JSON lines."""

import json
import logging
import sys
from datetime import UTC, datetime

from twinforce_proto import ServiceError
from twinforce_proto.errors import MAX_MESSAGE_BYTES, clipped
from twinforce_service.context import request_id, trace, trace_id_of, trace_parent

# Attributes of every record; all others were given as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_MAX_TRACEBACK_BYTES = 20_000


def internal_error(detail: str = "") -> ServiceError:
    """Return the error for a client whose request failed with an exception that is logged."""
    text = "internal error; see the logs of the service for details"
    return ServiceError(f"{text}: {detail}" if detail else text)


def configure(level: str, log_format: str) -> None:
    """Write the logs of this process to standard error.

    Args:
        level: Lowest level that is written: "debug", "info", "warning" or "error".
        log_format: "text" (key=value) or "json", with one line per record in either case.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JSONFormatter(logging.Formatter):
    """Formats a record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return json.dumps(fields(record), default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a record as time, level, logger and message, then key=value pairs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, followed by its traceback if there is one."""
        values = fields(record)
        traceback = values.pop("traceback", None)
        head = [values.pop(name) for name in ("time", "level", "logger", "message")]
        line = " ".join([*map(_plain, head), *(f"{k}={_quoted(v)}" for k, v in values.items())])
        return f"{line}\n{traceback}" if traceback else line


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of a record by name, without empty ones."""
    known: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        "request_id": request_id.get(),
        "trace_id": trace_id_of(trace.get() or trace_parent.get()),
    }
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info:
        given["traceback"] = logging.Formatter().formatException(record.exc_info)
    found = {name: _clipped(name, value) for name, value in (known | given).items()}
    return {name: value for name, value in found.items() if value not in ("", None)}


def _clipped(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return clipped(value, _MAX_TRACEBACK_BYTES if name == "traceback" else MAX_MESSAGE_BYTES)


def _plain(value: object) -> str:
    return str(value).replace("\n", " ")


def _quoted(value: object) -> str:
    text = _plain(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "=" in text else text
