"""The first code of an engine process in another environment: check it, then run the engine.

It is run as a script, as the environment may lack this package, and by any Python 3.7 or later, as
that may be too old for the rest. So it imports nothing of this project before its checks are done.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

_OLDEST = (3, 11)


def main() -> None:
    """Run the engine with the remaining arguments, or leave the reason in a file and exit."""
    version, roots, file = sys.argv[1:4]
    del sys.argv[1:4]
    if (reason := _reason_to_refuse(version, roots)) is None:
        try:
            from twinforce_service.process import engine_process
        except ImportError as error:
            reason = f"a package that engines need is missing there ({error}); run {_pip('engine')}"
        else:
            return engine_process.main()
    Path(file).write_text(reason)
    sys.exit(1)


def _reason_to_refuse(version: str, roots: str) -> str | None:
    """Return why the engine cannot run here; None if it can, with our source on the import path.

    Args:
        version: Version of the service.
        roots: Import roots of our packages that the service lends, separated as in `PATH`.
    """
    if sys.version_info < _OLDEST:
        found, needed = (".".join(map(str, each[:2])) for each in (sys.version_info, _OLDEST))
        return f"its Python is {found}, and twinforce needs {needed} or later"
    try:
        found = metadata.version("twinforce")
    except metadata.PackageNotFoundError:
        if not roots:
            return f"twinforce is not installed there; run {_pip('engine', version)}"
        sys.path[:0] = roots.split(os.pathsep)
        return None
    if found != version:
        return (
            f"it has twinforce {found}, and the service is twinforce {version}; "
            f"run {_pip('engine', version)}"
        )
    return None


def _pip(extra: str, version: str = "") -> str:
    """Return the command that installs an extra of twinforce here."""
    wanted = f"twinforce[{extra}]=={version}" if version else f"twinforce[{extra}]"
    return f"{sys.executable} -m pip install '{wanted}'"


if __name__ == "__main__":
    main()
