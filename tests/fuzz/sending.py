"""Send malformed messages to a service, and collect what should not have come."""

import random
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx2

from tests.fuzz.messages import MESSAGES, METHODS, body_of, changed_bytes

PATIENCE = 60.0
# Number of messages between two reports of the progress.
_REPORTED = 5000
# A model may fail on a system that is valid, but far from all that it was made for.
_OF_MODELS = ("PredictionError", "NonFinitePredictionError")
_GOOD_STATUS = {
    "OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
}  # fmt: skip


class Findings:
    """What came of the messages: how often each outcome, and the messages that failed."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[tuple[str, bytes, str]] = []

    def note(self, place: str, message: bytes, outcome: str, *, is_good: bool) -> None:
        self.outcomes[outcome] += 1
        if (n_messages := self.outcomes.total()) % _REPORTED == 0:
            sys.stdout.write(f"{n_messages} messages, {len(self.failures)} failures\n")
            sys.stdout.flush()
        if not is_good:
            self.failures.append((place, message, outcome))


def send_over_rest(url: str, n_messages: int, seed: int, findings: Findings) -> None:
    chance = random.Random(seed)
    with httpx2.Client(base_url=url, timeout=PATIENCE) as rest:
        for _ in range(n_messages):
            path = chance.choice(sorted(METHODS))
            body, media_type = body_of(path, chance)
            headers = {"content-type": media_type}
            reply = rest.post(f"/v1/models/soft/{path}", content=body, headers=headers)
            is_good = reply.status_code < 500 or any(name in reply.text for name in _OF_MODELS)
            findings.note(f"{path} {media_type}", body, str(reply.status_code), is_good=is_good)


def send_over_grpc(url: str, n_messages: int, seed: int, findings: Findings) -> None:
    chance = random.Random(seed)
    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        for _ in range(n_messages):
            method = chance.choice(sorted(MESSAGES))
            message = changed_bytes(MESSAGES[method].SerializeToString(), chance)
            outcome, details = call(channel, method, message)
            is_good = is_good_status(outcome, details)
            findings.note(method, message, outcome, is_good=is_good)


def is_good_status(outcome: str, details: str) -> bool:
    """Return True if this status of gRPC may come of a malformed message."""
    return outcome in _GOOD_STATUS or (outcome == "INTERNAL" and "model" in details)


def call(channel: grpc.Channel, method: str, message: bytes, key: str = "") -> tuple[str, str]:
    """Return the status of a call of bytes, and its details."""
    name = f"/twinforce.v1.Inference/{method}"
    options: dict[str, Any] = {"timeout": PATIENCE}
    if key:
        options["metadata"] = [("authorization", f"Bearer {key}")]
    try:
        if method == "PredictStream":
            list(channel.stream_stream(name)(iter([message] * 2), **options))
        elif method in ("Propagate", "Relax"):
            list(channel.unary_stream(name)(message, **options))
        else:
            channel.unary_unary(name)(message, **options)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""
