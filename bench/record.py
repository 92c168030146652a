"""What a measurement leaves behind: one file, with the machine, versions and the spread."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import ROOT, describe_machine
from bench.timing import Timing

RESULTS = ROOT / "bench" / "results"


def write(
    out: Path, name: str, figures: Mapping[str, Timing], n_threads: int = 1, **details: object
) -> None:
    """Write what was found, and say where.

    Args:
        out: The folder; made if it is not there.
        name: Of the file, without its ending.
        figures: What is compared with the bars, by the names that `bars` has for them.
        n_threads: Of the computation.
        details: What else is worth keeping, as JSON can say it.
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
    """Return what a measurement wrote; empty if it was not made."""
    path = folder / f"{name}.json"
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def figure(content: Mapping[str, Any], name: str) -> Timing | None:
    """Return a figure of what `read` gave; None if it was not measured."""
    values = content.get("figures", {}).get(name)
    return None if values is None else Timing(**values)
