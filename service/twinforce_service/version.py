"""Which version of the service this is, and what predictions say of what made them."""

from functools import cache
from importlib import metadata

from twinforce_proto import ModelInfo, Provenance


@cache
def service_version() -> str:
    """Return the version of the installed distribution; "0" when run from a bare source tree."""
    try:
        return metadata.version("twinforce")
    except metadata.PackageNotFoundError:
        return "0"


def provenance_of(info: ModelInfo) -> Provenance:
    """Return what a prediction of this model says of what made it."""
    return Provenance(
        model=info.name,
        version=info.version,
        sha256=info.sha256,
        dtype=info.dtype,
        device=info.device,
        service_version=service_version(),
    )
