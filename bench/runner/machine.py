"""A description of the machine that a measurement ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def describe_machine(n_threads: int) -> dict[str, str | int]:
    """Return the processor, the number of cores and the versions of the main packages."""
    return {
        "processor": _processor(),
        "n_cores": os.cpu_count() or 0,
        "n_threads": n_threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "grpcio": _version("grpcio"),
        "twinforce": _version("twinforce"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
