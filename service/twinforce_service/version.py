"""The version of the service, and the provenance of its predictions."""

from functools import cache
from importlib import metadata

from twinforce_proto import ModelInfo, Provenance


@cache
def service_version() -> str:
    """Return the version of the installed distribution, or "0" in a bare source tree."""
    try:
        return metadata.version("twinforce")
    except metadata.PackageNotFoundError:
        return "0"


def provenance_of(info: ModelInfo) -> Provenance:
    """Return the provenance of the predictions of a model."""
    return Provenance(
        model=info.name,
        version=info.version,
        sha256=info.sha256,
        dtype=info.dtype,
        device=info.device,
        service_version=service_version(),
    )
