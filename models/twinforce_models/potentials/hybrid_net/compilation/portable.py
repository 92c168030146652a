"""Parts that run on any processor of a level, and come with the package.

They are compiled by `bundled`, while an image is built.
"""

import platform
from dataclasses import replace
from pathlib import Path

import torch

from twinforce_models.potentials.hybrid_net.compilation.spec import Spec

LEVEL = "x86-64-v3"
"""Microarchitecture level of the x86-64 psABI: AVX2 and FMA, which processors since 2015 have."""

FOLDER = Path(__file__).parents[3] / "bundled" / "compiled"

# Names of the instructions of that level in /proc/cpuinfo.
_FLAGS = (
    *("abm", "avx", "avx2", "bmi1", "bmi2", "cx16", "f16c", "fma", "lahf_lm", "movbe", "pni"),
    *("popcnt", "sse4_1", "sse4_2", "ssse3", "xsave"),
)


def portable(spec: Spec) -> Spec | None:
    """Return the spec of the part that takes the place of this one; None on a GPU.

    It leaves open the number of threads.
    """
    if torch.device(spec.device).type != "cpu":
        return None
    return replace(spec, n_threads=0, level=LEVEL)


def can_run(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if the processor has the instructions of the level."""
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return False
    lines = (each for each in cpuinfo.read_text().splitlines() if each.startswith("flags"))
    return set(next(lines, "").split()).issuperset(_FLAGS)
