"""The report of an assessment: all results, with their provenance, in one document."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from twinforce.assess.folder import Folder, UnitResults, as_json, digest_of
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
    """Return a report on the units requested now and on all others in the folder.

    Args:
        subject: The model and the system that are assessed.
        provenance: Provenance from `provenance_of`.
        folder: Folder of the assessment.
        units: Units requested now.
        notes: Reasons why some of them were not run, by unit key.
    """
    keys = list(dict.fromkeys([*(unit.key for unit in units), *folder.keys()]))
    pieces: dict[str, dict[str, Any]] = {piece: {} for piece in (START, *SHARES)}
    for key in keys:
        pieces[key.partition(":")[0]][key] = _unit(folder.results(key), notes.get(key, ""))
    report = {
        "format": _FORMAT,
        "provenance": {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")},
        "atoms": _description(subject),
        "conditions": asdict(subject.conditions),
        "wall_s": sum(
            unit.get("wall_s", 0.0) for each in pieces.values() for unit in each.values()
        ),
        "pieces": {piece: each for piece, each in pieces.items() if each},
    }
    report = dict(as_json(report))
    thresholds = Thresholds.at(subject.conditions.temperature_k)
    report["thresholds"] = asdict(thresholds)
    report["verdict"] = as_json(asdict(judge(report, thresholds)))
    return report


def _unit(results: UnitResults | None, note: str) -> dict[str, Any]:
    """Return the values of a unit with its status.

    The status is "done", "shortened" (time ran out), "stopped" (it cannot continue), "skipped",
    "failed", "not defined" or "not run".
    """
    if results is None:
        status = note.partition(":")[0] if note else "not run"
        return {"status": status, "note": note}
    status = "done" if results.is_done else "shortened"
    if results.is_done and results.note:
        status = "stopped"
    return {
        "status": status,
        "note": results.note or note,
        "wall_s": results.wall_s,
        **results.values,
    }


def provenance_of(subject: Subject) -> dict[str, Any]:
    """Return the versions and settings of model, service and client, from one evaluation."""
    prediction = subject.client.predict(subject.system, ("energy",), subject.info.name)
    assert prediction.provenance is not None
    subject.check(prediction.provenance)
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
        "free_counts": dict(Counter(atoms.symbols[subject.free])),
        "masses": {
            symbol: float(atoms.get_masses()[atoms.symbols == symbol].mean())
            for symbol in dict.fromkeys(atoms.get_chemical_symbols())
        },
        "pbc": atoms.pbc.tolist(),
        "volume": float(atoms.get_volume()) if atoms.pbc.all() else None,
        "sha256": digest_of(atoms),
    }
