"""The file that a measurement writes: its figures with their spread, the machine, and versions."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.runner.machine import ROOT, describe_machine
from bench.runner.timing import Timing

RESULTS = ROOT / "bench" / "results"


def write(
    out: Path, name: str, figures: Mapping[str, Timing], n_threads: int = 1, **details: object
) -> None:
    """Write a result and print its path.

    Args:
        out: Folder of the file; created if it is missing.
        name: Name of the file, without its ending.
        figures: Values that are compared with bars, by the names in `report.bars`.
        n_threads: Number of CPU threads that the computation used.
        details: Further content that JSON can represent.
    """
    content = {
        "machine": describe_machine(n_threads),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": {each: asdict(timing) for each, timing in figures.items()},
        **details,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path}")


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of a result, or an empty dictionary if there is none."""
    path = folder / f"{name}.json"
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def figure(content: Mapping[str, Any], name: str) -> Timing | None:
    """Return a figure of a result that `read` returned, or None if it was not measured."""
    values = content.get("figures", {}).get(name)
    return None if values is None else Timing(**values)
