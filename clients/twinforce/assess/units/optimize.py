"""Geometry optimization from many perturbed starts, with each kind of forces.

An optimization on direct forces ends where they vanish, which need not be where the gradient does;
they may also never vanish. All strategies are judged alike, by whether the largest *conservative*
force on an atom that can move is small enough at the end. "hybrid" optimizes on direct forces until
they stall, and on conservative forces from there.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import FIRE

from twinforce.ase import DirectForcesWarning, ForceKind
from twinforce.assess.analysis.statistics import mean_of_independent
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults, as_json, write_json
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.simulation import EXPLOSION_ERRORS
from twinforce.assess.ways import TYPICAL_F

STRATEGIES = ("direct", "conservative", "hybrid")

_N_THREADS = 4
_PERTURBATION = 0.1
# Hybrid optimization switches to conservative forces at this multiple of fmax, or after this many
# steps that did not lower the largest force.
_SWITCH = 4.0
_PATIENCE = 40


def optimize_unit(
    strategy: str, n_starts: int, fmax: float, max_steps: int, conditions: Conditions
) -> Unit:
    """Return the unit that optimizes from perturbed starts.

    Args:
        strategy: One of `STRATEGIES`.
        n_starts: Number of starts.
        fmax: Largest force on an atom at which an optimization has converged, in eV/Å.
        max_steps: Maximum number of steps of each optimization.
        conditions: Conditions whose seed is used.
    """
    settings = {"fmax": fmax, "max_steps": max_steps, "perturbation": _PERTURBATION}
    relative = {"direct": 1.0, "conservative": TYPICAL_F, "hybrid": 0.5 * (1 + TYPICAL_F)}[strategy]
    outputs = set() if strategy == "conservative" else {"direct_forces"}
    return Unit(
        f"optimise:{strategy}",
        relative * n_starts * max_steps / 2,
        settings,
        partial(_optimize_all, strategy, n_starts, fmax, max_steps, conditions.seed),
        outputs=frozenset(outputs | {"conservative_forces"}),
    )


def _optimize_all(
    strategy: str,
    n_starts: int,
    fmax: float,
    max_steps: int,
    seed: int,
    subject: Subject,
    directory: Path,
    deadline: Deadline,
) -> UnitResults:
    path = directory / "starts.json"
    outcomes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    is_stopped = Event()

    def is_over() -> bool:
        return deadline.is_over or is_stopped.is_set()

    def optimize(index: int) -> dict[str, Any] | None:
        atoms = _perturbed(subject, seed, index)
        return _optimize(subject, strategy, fmax, max_steps, is_over, atoms)

    waiting = [index for index in range(n_starts) if str(index) not in outcomes]
    with subject.progress.bar(f"optimize {strategy}", n_starts, len(outcomes)) as bar:
        for index, outcome in _in_threads(waiting, optimize, is_stopped):
            if outcome is not None:
                outcomes[str(index)] = outcome
                write_json(path, as_json(outcomes))
                bar.update()
    values = {"starts": outcomes} | summarize(list(outcomes.values()))
    values |= {"n_starts": n_starts, "fmax": fmax, "max_steps": max_steps}
    return UnitResults(values, len(outcomes) >= n_starts)


def summarize(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the success rate and the mean number of evaluations, with errors."""
    succeeded = [each for each in starts if each["is_minimum"]]
    n_starts = len(starts)
    rate = len(succeeded) / n_starts if n_starts else float("nan")
    # Wilson's interval, in which 10 of 10 successes leave some uncertainty.
    spread = np.sqrt(rate * (1 - rate) / n_starts + 0.25 / n_starts**2) if n_starts else np.nan
    counted = succeeded or starts
    largest = [each["largest_force"] for each in starts]
    known = [each for each in largest if each is not None and np.isfinite(each)]
    means = {
        name: mean_of_independent([float(each[name]) for each in counted])
        for name in ("n_direct", "n_conservative")
    }
    return {
        "n_done": n_starts,
        "success_rate": rate,
        "success_error": float(spread / (1 + 1 / n_starts)) if n_starts else float("nan"),
        "believed_rate": np.mean([each["is_converged"] for each in starts]) if starts else np.nan,
        "n_direct": means["n_direct"].value,
        "n_conservative": means["n_conservative"].value,
        "n_direct_error": means["n_direct"].error,
        "n_conservative_error": means["n_conservative"].error,
        "largest_force_median": np.median(known) if known else np.nan,
    }


def _in_threads(
    waiting: list[int], work: Callable[[int], dict[str, Any] | None], is_stopped: Event
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Optimize several starts at once, so that the service can batch them; yield each when done."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as pool:
        warnings.simplefilter("ignore", DirectForcesWarning)
        running = {pool.submit(work, index): index for index in waiting}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            is_stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _perturbed(subject: Subject, seed: int, index: int) -> Atoms:
    atoms = subject.atoms.copy()
    atoms.set_array("momenta", None)
    atoms.positions[:] = subject.displaced(np.random.default_rng([seed, index]), _PERTURBATION)
    return atoms


def _optimize(
    subject: Subject,
    strategy: str,
    fmax: float,
    max_steps: int,
    is_over: Callable[[], bool],
    atoms: Atoms,
) -> dict[str, Any] | None:
    """Optimize; return the outcome, or None if time ran out."""
    counts = {"direct": 0, "conservative": 0}
    kinds: tuple[ForceKind, ...] = ("direct", "conservative")
    if strategy != "hybrid":
        kinds = tuple(kind for kind in kinds if kind == strategy)
    is_converged, note = False, ""
    for kind in kinds:
        is_first = strategy == "hybrid" and kind == "direct"
        limit = _SWITCH * fmax if is_first else fmax
        patience = _PATIENCE if is_first else max_steps
        left = max_steps - sum(counts.values())
        try:
            n_calls, is_converged = _optimize_on(
                kind, subject, atoms, limit, left, patience, is_over
            )
        except EXPLOSION_ERRORS as error:
            note = str(error)
            n_calls, is_converged = 0, False
        counts[kind] += n_calls
        if is_over():
            return None
    energy, largest = None, float("nan")
    try:
        energy, largest = _end_of(subject, atoms)
    except EXPLOSION_ERRORS as error:
        note = str(error)
    return {
        "n_direct": counts["direct"],
        "n_conservative": counts["conservative"],
        "is_converged": is_converged,
        "is_minimum": largest <= fmax,
        "largest_force": largest,
        "energy": energy,
        "note": note,
    }


def _end_of(subject: Subject, atoms: Atoms) -> tuple[float | None, float]:
    """Return the energy and the largest conservative force on an atom that can move."""
    (final,) = subject.predict([atoms.positions], ("energy", "conservative_forces"))
    assert final.conservative_forces is not None
    free_forces = final.conservative_forces[subject.free]
    return final.energy, float(np.linalg.norm(free_forces, axis=1).max())


def _optimize_on(
    kind: ForceKind,
    subject: Subject,
    atoms: Atoms,
    fmax: float,
    max_steps: int,
    patience: int,
    is_over: Callable[[], bool],
) -> tuple[int, bool]:
    """Optimize on one kind of forces; return the number of evaluations and whether it converged."""
    smallest, n_since, n_calls = np.inf, 0, 0
    with (
        subject.calculator(kind) as atoms.calc,
        FIRE(atoms, logfile=None) as optimizer,
    ):
        for is_converged in optimizer.irun(fmax=fmax, steps=max_steps):
            n_calls += 1
            if is_converged:
                return n_calls, True
            largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
            n_since = 0 if largest < smallest else n_since + 1
            smallest = min(smallest, largest)
            if n_since >= patience or is_over():
                break
    return n_calls, False
