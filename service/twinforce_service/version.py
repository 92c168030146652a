"""Which version of the service this is."""

from functools import cache
from importlib import metadata


@cache
def service_version() -> str:
    """Return the version of the installed distribution; "0" when run from a bare source tree."""
    try:
        return metadata.version("twinforce")
    except metadata.PackageNotFoundError:
        return "0"
