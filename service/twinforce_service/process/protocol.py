"""The protocol between the API process and an engine process, and whether both speak the same."""

import hashlib
from functools import cache
from pathlib import Path

import twinforce_proto
import twinforce_service
from twinforce_service.version import service_version

# Modules that define the messages, by package; a folder stands for all modules in it.
_SOURCES = (
    (
        twinforce_service,
        (
            "callers/caller.py",
            "engine/report.py",
            "engine/spec.py",
            "process",
            "scheduling/request.py",
        ),
    ),
    (twinforce_proto, ("v1",)),
)


@cache
def protocol() -> str:
    """Return a fingerprint of the source of all messages."""
    digest = hashlib.sha256()
    for package, places in _SOURCES:
        for place in places:
            for path in _modules(Path(str(package.__file__)).parent / place):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def reason_to_refuse(version: str, theirs: str) -> str | None:
    """Return why the messages of a process with this version and protocol are refused, or None."""
    if theirs == protocol():
        return None
    return (
        f"its engine speaks the protocol {theirs} of twinforce {version}, and the service the "
        f"protocol {protocol()} of twinforce {service_version()}; install the same twinforce in "
        "both environments, and restart the service"
    )


def _modules(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]
