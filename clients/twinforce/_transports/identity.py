"""The name that all connections of this process give to the service, so that they count as one."""

import os
import uuid

_NAME = uuid.uuid4().hex[:16]


def client_id() -> str:
    """Return the name of this process, which a fork does not inherit."""
    return f"{_NAME}-{os.getpid()}"
