"""The work of forces around closed paths, which is 0 if the forces are a gradient.

    r(θ) = r_0 + a [u (cos θ - 1) + v sin θ],    W = ∮ f·dr = Σ f(r_k)·r'(θ_k) 2π/m

u and v are random, orthogonal displacements of the n atoms that can move, of length sqrt(n), and a
is the amplitude. The path is smooth and periodic, so that the sum over m points converges faster
than any power of m; the sum over every other point gives an estimate of the error.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce.assess.analysis.statistics import Floats
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults, read_results
from twinforce.assess.subject import Conditions, Subject, Unit

KEY = "loops"
_N_POINTS = 32


def loops_unit(n_loops: int, conditions: Conditions, amplitude: float = 0.05) -> Unit:
    """Return the unit that measures the work around closed paths.

    Args:
        n_loops: Number of paths.
        conditions: Conditions whose seed is used.
        amplitude: Root mean square displacement of an atom along u or v, in Å.
    """
    settings = {"amplitude": amplitude, "n_points": _N_POINTS}
    work = partial(_measure, n_loops, amplitude, conditions.seed)
    return Unit(KEY, 2.5 * n_loops * _N_POINTS, settings, work)


def directions(
    n_atoms: int, rng: np.random.Generator, free: NDArray[np.intp] | None = None
) -> tuple[Floats, Floats]:
    """Return u and v, each of shape [n_atoms, 3].

    Args:
        n_atoms: Number of atoms.
        rng: Generator of the random numbers.
        free: Indices of the atoms that can move. None: all, without translation of the system as
            a whole.
    """
    drawn = rng.standard_normal((2, n_atoms, 3))
    n_free = n_atoms if free is None else len(free)
    if free is not None:
        drawn[:, np.setdiff1d(np.arange(n_atoms), free)] = 0.0
    elif n_atoms > 1:
        drawn -= drawn.mean(axis=1, keepdims=True)
    u = drawn[0] / np.linalg.norm(drawn[0])
    v = drawn[1] - np.vdot(u, drawn[1]) * u
    scale = math.sqrt(n_free)
    return scale * u, scale * v / np.linalg.norm(v)


def path_around(
    origin: Floats, u: Floats, v: Floats, amplitude: float, n_points: int
) -> tuple[Floats, Floats]:
    """Return points of a path and its tangents dr/dθ, each of shape [n_points, n_atoms, 3]."""
    angles = (np.arange(n_points) * 2.0 * np.pi / n_points)[:, None, None]
    points = origin + amplitude * (u * (np.cos(angles) - 1.0) + v * np.sin(angles))
    return points, amplitude * (v * np.cos(angles) - u * np.sin(angles))


def work_around(forces: Floats, tangents: Floats) -> tuple[float, float, float]:
    """Return the work around a closed path, the error of the sum, and ∮ |f·dr|, all in eV.

    Args:
        forces: Forces in eV/Å, shape [n_points, n_atoms, 3], with even n_points.
        tangents: dr/dθ in Å, of the same shape.
    """
    powers = np.einsum("kij,kij->k", forces, tangents)
    step = 2.0 * np.pi / len(powers)
    work, coarse = float(powers.sum() * step), float(powers[::2].sum() * 2.0 * step)
    return work, abs(work - coarse), float(np.abs(powers).sum() * step)


def _measure(
    n_loops: int, amplitude: float, seed: int, subject: Subject, directory: Path, deadline: Deadline
) -> UnitResults:
    earlier = read_results(directory)
    loops: list[dict[str, Any]] = [] if earlier is None else list(earlier.values["loops"])
    with subject.progress.bar("closed paths", n_loops, len(loops)) as bar:
        while len(loops) < n_loops and not deadline.is_over:
            rng = np.random.default_rng([seed, len(loops)])
            loops.append(_one_loop(subject, amplitude, rng))
            bar.update()
    return UnitResults({"loops": loops} | _summary(loops, len(subject.free)), len(loops) >= n_loops)


def _one_loop(subject: Subject, amplitude: float, rng: np.random.Generator) -> dict[str, Any]:
    free = subject.free if subject.is_held else None
    u, v = directions(len(subject.atoms), rng, free)
    points, tangents = path_around(subject.atoms.positions, u, v, amplitude, _N_POINTS)
    outputs = ("conservative_forces", "direct_forces")
    predictions = []
    for begin in range(0, len(points), subject.n_per_request):
        chunk = points[begin : begin + subject.n_per_request]
        predictions += subject.predict(chunk, outputs)
    loop = {}
    for output in outputs:
        forces = np.array([getattr(each, output) for each in predictions])
        names = ("work", "quadrature_error", "path_length")
        loop[output] = dict(zip(names, work_around(forces, tangents), strict=True))
    return loop


def _summary(loops: list[dict[str, Any]], n_free: int) -> dict[str, Any]:
    """Return root mean squares over paths, per atom that can move in meV, with standard errors."""
    if not loops:
        return {}
    summary = {}
    for kind in ("conservative", "direct"):
        each = [loop[f"{kind}_forces"] for loop in loops]
        squares = np.array([loop["work"] ** 2 for loop in each])
        rms = math.sqrt(squares.mean())
        spread = squares.std(ddof=1) / math.sqrt(len(squares)) if len(squares) > 1 else math.nan
        lengths = np.mean([loop["path_length"] for loop in each])
        summary[kind] = {
            "rms_work_mev_per_atom": rms * 1e3 / n_free,
            "error_mev_per_atom": spread / (2.0 * rms) * 1e3 / n_free if rms else 0.0,
            "quadrature_error_mev_per_atom": max(loop["quadrature_error"] for loop in each)
            * 1e3
            / n_free,
            "relative_to_path": float(rms / lengths) if lengths else math.nan,
        }
    return summary
