"""Run ASE's own tests that use EMT with our calculator in its place: make test-ase."""

import os
import sys
from pathlib import Path

import ase.test
import pytest

ROOT = Path(__file__).parents[3]
_PLUGINS = ["-p", "tests.ecosystem.ase.swap", "-p", "no:cacheprovider"]


def _precede(variable, folder):
    """Put a folder before those in a variable of the environment."""
    before = filter(None, [os.environ.get(variable)])
    os.environ[variable] = os.pathsep.join([str(folder), *before])


def main(arguments):
    """Return the exit status of pytest."""
    # Some of them start programs: `ase`, which lies beside Python in an environment that may not be
    # active, and Python, which is to find our calculator.
    _precede("PATH", Path(sys.executable).parent)
    _precede("PYTHONPATH", ROOT)
    folder = Path(ase.test.__file__).parent
    options = [*_PLUGINS, "-c", "/dev/null", "--rootdir", str(folder.parent), "-q", "-rxXfE"]
    return pytest.main([*options, *arguments, str(folder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
