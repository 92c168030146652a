"""Header names, media types, urgency levels and the rule for model names.

Over gRPC, the request id, the client id and the urgency are metadata of the same name; the timeout
is the deadline of the call.
"""

import re

REQUEST_ID = "x-request-id"
# Name of a process that may use several connections, which then count as one.
CLIENT_ID = "x-client-id"
TIMEOUT = "X-Timeout-Seconds"
URGENCY = "x-urgency"
# Name under which a client asks about a request while it waits; REST only. Proxies replace request
# ids of their own accord.
WATCH_ID = "x-watch-id"

# The span of the caller (W3C Trace Context), and what its tracing system adds.
TRACE_PARENT = "traceparent"
TRACE_STATE = "tracestate"

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"
PROBLEM = "application/problem+json"

# Urgency levels, from the most urgent to the least; a request without one is normal.
MOST_URGENT, NORMAL_URGENCY, LEAST_URGENT = 0, 3, 7

# Name of the model that a server offers unless it is configured otherwise.
BUNDLED_MODEL = "water"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_model_name(name: str) -> bool:
    """Return True if a model can have this name, which becomes part of REST paths."""
    return _MODEL_NAME.fullmatch(name) is not None
