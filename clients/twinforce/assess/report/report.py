"""All that an assessment found, with where it comes from, as one document."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from twinforce.assess.folder import Folder, Found, as_json, digest_of
from twinforce.assess.plan import SHARES
from twinforce.assess.report.verdict import Thresholds, judge
from twinforce.assess.subject import Subject, Unit
from twinforce.assess.units.start import KEY as START

_FORMAT = 1


def report_of(
    subject: Subject,
    provenance: Mapping[str, Any],
    folder: Folder,
    units: Sequence[Unit],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Return the report: of what was asked for now, and of what is in the folder besides.

    Args:
        subject: What is assessed.
        provenance: As `provenance_of` gives it.
        folder: Where its units are.
        units: What was asked for.
        notes: Why some of it has not been run, by key.
    """
    keys = list(dict.fromkeys([*(unit.key for unit in units), *folder.keys()]))
    pieces: dict[str, dict[str, Any]] = {piece: {} for piece in (START, *SHARES)}
    for key in keys:
        found = folder.found(key)
        pieces[key.partition(":")[0]][key] = _unit_of(found, notes.get(key, ""))
    report = {
        "format": _FORMAT,
        "provenance": {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")},
        "atoms": _description(subject),
        "conditions": asdict(subject.conditions),
        "wall_s": sum(
            unit.get("wall_s", 0.0) for each in pieces.values() for unit in each.values()
        ),
        "pieces": {piece: found for piece, found in pieces.items() if found},
    }
    report = dict(as_json(report))
    thresholds = Thresholds.at(subject.conditions.temperature_k)
    report["thresholds"] = asdict(thresholds)
    report["verdict"] = as_json(asdict(judge(report, thresholds)))
    return report


def _unit_of(found: Found | None, note: str) -> dict[str, Any]:
    """Return a unit's values with its status.

    That is "done"; "shortened", where the time was over; "stopped", where it could not go on;
    "skipped", "failed" or "not run".
    """
    if found is None:
        status = note.partition(":")[0] if note else "not run"
        return {"status": status, "note": note}
    status = "done" if found.is_done else "shortened"
    if found.is_done and found.note:
        status = "stopped"
    return {
        "status": status,
        "note": found.note or note,
        "wall_s": found.wall_s,
        **found.values,
    }


def provenance_of(subject: Subject) -> dict[str, Any]:
    """Return what answers and what asks, from one evaluation."""
    prediction = subject.client.predict(subject.system, ("energy",), subject.info.name)
    assert prediction.provenance is not None
    return asdict(prediction.provenance) | {
        "architecture": subject.info.architecture,
        "n_parameters": subject.info.n_parameters,
        "cutoff": subject.info.cutoff,
        "client_version": _client_version(),
        "url": subject.client.url,
        "python": platform.python_version(),
    }


def _client_version() -> str:
    try:
        return version("twinforce")
    except PackageNotFoundError:
        return "unknown"


def _description(subject: Subject) -> dict[str, Any]:
    atoms = subject.atoms
    return {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "counts": dict(Counter(atoms.get_chemical_symbols())),
        "masses": {
            symbol: float(atoms.get_masses()[atoms.symbols == symbol].mean())
            for symbol in dict.fromkeys(atoms.get_chemical_symbols())
        },
        "pbc": atoms.pbc.tolist(),
        "volume": float(atoms.get_volume()) if atoms.pbc.all() else None,
        "sha256": digest_of(atoms),
    }
