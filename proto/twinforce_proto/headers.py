"""The names that travel beside a request: headers, media types, levels of urgency, model names.

A header over HTTP is metadata of the same name over gRPC.
"""

import re

REQUEST_ID = "x-request-id"
TIMEOUT = "X-Timeout-Seconds"
URGENCY = "x-urgency"

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"
PROBLEM = "application/problem+json"

# Levels of urgency, from the most urgent to the least.
MOST_URGENT, NORMAL_URGENCY, LEAST_URGENT = 0, 3, 7

# The model that a server offers unless it is configured otherwise.
BUNDLED_MODEL = "water"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_model_name(name: str) -> bool:
    """Return True if a model can be served under this name, which is part of a REST path."""
    return _MODEL_NAME.fullmatch(name) is not None
