"""Where a measurement was made."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def describe_machine(n_threads: int) -> dict[str, str | int]:
    """Return processor, cores and versions, for the record."""
    return {
        "processor": _processor(),
        "n_cores": os.cpu_count() or 0,
        "n_threads": n_threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "grpcio": version("grpcio"),
        "twinforce": version("twinforce"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
