"""Run ASE's own tests that use EMT with our calculator in its place: make test-ase."""

import os
import sys
from pathlib import Path

import ase.test
import pytest

_PLUGINS = ["-p", "tests.ecosystem.ase.swap", "-p", "no:cacheprovider"]


def main(arguments):
    """Return the exit status of pytest."""
    # Some of them run `ase`, which lies beside Python, also in an environment that is not active.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    folder = Path(ase.test.__file__).parent
    options = [*_PLUGINS, "-c", "/dev/null", "--rootdir", str(folder.parent), "-q", "-rxXfE"]
    return pytest.main([*options, *arguments, str(folder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
