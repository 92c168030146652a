"""Compilation of the bundled models for common processors, into the package.

    python -m twinforce_models.potentials.hybrid_net.compilation.bundled x86-64-v3

It takes minutes, a C++ compiler, one of these processors, and a package that may be written to, as
while an image is built.
"""

import argparse
import platform
import sys
from pathlib import Path

import torch

from twinforce_models.potentials.hybrid_net.compilation.cache import path_of
from twinforce_models.potentials.hybrid_net.compilation.compiling import PARTS, build, specs_of
from twinforce_models.potentials.hybrid_net.compilation.portable import (
    FOLDER,
    LEVEL,
    can_run,
    portable,
)
from twinforce_models.potentials.hybrid_net.compilation.spec import Spec
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.registry import bundled_models, load


def main() -> None:
    """Compile the parts of each bundled model; none on machines that are not x86-64.

    Raises:
        SystemExit: If this is an x86-64 processor that lacks the level.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("level", choices=[LEVEL], help="processors to compile for")
    parser.parse_args()
    if platform.machine() != "x86_64":
        sys.stdout.write(f"Nothing is compiled, as this machine is not {LEVEL}.\n")
        return
    if not can_run():
        sys.exit(
            f"The bundled models cannot be compiled for {LEVEL}, since this processor lacks it: "
            "build the image on another machine, or with COMPILED_FOR=, to compile in containers."
        )
    FOLDER.mkdir(exist_ok=True)
    FOLDER.chmod(0o755)
    parts = [each for name in bundled_models() for each in _parts(name)]
    build(parts, is_nice=False)
    for spec, path in parts:
        path.chmod(0o644)
        path.with_suffix(".lock").unlink()
        sys.stdout.write(f"{spec.part}: {path.name}, {path.stat().st_size / 1e6:.1f} MB\n")


def _parts(name: str) -> list[tuple[Spec, Path]]:
    """Return the specs of the parts of a bundled model, and the paths of their files."""
    potential = load(name, device=torch.device("cpu")).potential
    assert isinstance(potential, HybridNet)
    specs = [portable(each) for each in specs_of(potential, PARTS, 1)]
    return [(spec, path_of(spec, FOLDER)) for spec in specs if spec is not None]


if __name__ == "__main__":
    main()
