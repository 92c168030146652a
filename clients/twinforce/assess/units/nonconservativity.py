"""The non-conservativity of forces, by automatic differentiation and by finite differences.

    λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

(Bigi, Langer, Ceriotti, arXiv:2412.11569, eq. 5). The service differentiates the forces; as a
check, the client takes central differences. Their value for conservative forces is the noise of
the method. Rows and columns of atoms that cannot move are left out.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce.assess.analysis.statistics import Floats
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults
from twinforce.assess.subject import Subject, Unit

SERVER_KEY, CLIENT_KEY = "lambda:server", "lambda:client"

# Displacements that balance rounding errors against the curvature of forces, in Å.
_DISPLACEMENTS = {"float32": 1e-2, "float64": 1e-3}
_MOST_ATOMS = 1000
_BIN_WIDTH = 0.25
# The call cannot be resumed, so it may take several times its share of the time, within these
# limits in s.
_TIMEOUT_OVER_SHARE = 3.0
_TIMEOUTS_S = (120.0, 3600.0)


def server_unit(subject: Subject) -> Unit:
    """Return the unit that has the service compute λ."""
    cost = 6.0 * len(subject.atoms)
    return Unit(SERVER_KEY, cost, {}, _compute_on_service, outputs=frozenset({"direct_forces"}))


def client_unit(subject: Subject) -> Unit:
    """Return the unit that takes central differences of all kinds of forces of the model."""
    kinds = [
        kind for kind in ("direct", "conservative") if f"{kind}_forces" in subject.info.outputs
    ]
    displacement = _DISPLACEMENTS.get(subject.info.dtype, 1e-2)
    return Unit(
        CLIENT_KEY,
        6.0 * len(subject.free) * (2.5 if "conservative" in kinds else 1.0),
        {"displacement": displacement, "kinds": kinds},
        partial(_take_differences, kinds, displacement),
        outputs=frozenset({"direct_forces"}),
    )


def by_distance(
    distances: Floats, norms: Floats, antisymmetric_norms: Floats
) -> dict[str, list[float]]:
    """Return the response of pairs of atoms as a function of their distance.

    Args:
        distances: Distances of pairs of atoms, in Å, shape [n_atoms, n_atoms].
        norms: Norms of the blocks J_ij, in eV/Å², shape [n_atoms, n_atoms].
        antisymmetric_norms: Norms of (J_ij - J_jiᵀ)/2, in eV/Å², shape [n_atoms, n_atoms].

    Returns:
        For each bin of distances: its center, the root mean square of either norm, and λ of the
        bin, which is the ratio of the two.
    """
    off_diagonal = ~np.eye(len(distances), dtype=bool)
    bins = (distances[off_diagonal] / _BIN_WIDTH).astype(int)
    counts = np.bincount(bins)
    filled = np.flatnonzero(counts)
    squares, antisymmetric_squares = (
        np.bincount(bins, each[off_diagonal] ** 2)[filled] / counts[filled]
        for each in (norms, antisymmetric_norms)
    )
    is_nonzero = squares > 0.0
    filled, squares = filled[is_nonzero], squares[is_nonzero]
    antisymmetric_squares = antisymmetric_squares[is_nonzero]
    return {
        "distances": ((filled + 0.5) * _BIN_WIDTH).tolist(),
        "norms": np.sqrt(squares).tolist(),
        "antisymmetric_norms": np.sqrt(antisymmetric_squares).tolist(),
        "lambdas": np.sqrt(antisymmetric_squares / squares).tolist(),
    }


def block_norms(matrix: Floats) -> Floats:
    """Return the norm of each 3 x 3 block, shape [n_atoms, n_atoms]."""
    n_atoms = len(matrix) // 3
    norms: Floats = np.linalg.norm(matrix.reshape(n_atoms, 3, n_atoms, 3), axis=(1, 3))
    return norms


def _compute_on_service(subject: Subject, directory: Path, deadline: Deadline) -> UnitResults:
    if deadline.is_over:
        return UnitResults({}, False)
    del directory
    timeout = float(np.clip(_TIMEOUT_OVER_SHARE * deadline.seconds_left, *_TIMEOUTS_S))
    with subject.client.with_timeout(timeout) as client:
        answer = client.nonconservativity(subject.system, subject.info.name, pairs=True)
        subject.check(answer.provenance)
    assert answer.pair_norms is not None
    assert answer.antisymmetric_pair_norms is not None
    chosen = np.ix_(subject.free, subject.free)
    norms = answer.pair_norms.astype(np.float64)[chosen]
    antisymmetric_norms = answer.antisymmetric_pair_norms.astype(np.float64)[chosen]
    values = _values(subject, norms, antisymmetric_norms)
    if not subject.is_held:  # these have more digits than those of pairs
        values["lambda"] = answer.value if answer.jacobian_norm > 0 else math.nan
        values["jacobian_norm"] = answer.jacobian_norm
        values["antisymmetric_norm"] = answer.antisymmetric_norm
    return UnitResults(values)


def _take_differences(
    kinds: list[str], displacement: float, subject: Subject, directory: Path, deadline: Deadline
) -> UnitResults:
    n_free = len(subject.free)
    if n_free > _MOST_ATOMS:
        return UnitResults({}, True, f"not run: expected at most {_MOST_ATOMS} atoms, got {n_free}")
    columns = _columns(kinds, displacement, subject, directory / "columns.f64", deadline)
    if len(columns) < 3 * n_free:
        return UnitResults({"share_done": len(columns) / (3 * n_free)}, False)
    values: dict[str, Any] = {"displacement": displacement}
    for index, kind in enumerate(kinds):
        values[kind] = _summary(subject, columns[:, index].T)
    return UnitResults(values)


def _summary(subject: Subject, jacobian: Floats) -> dict[str, Any]:
    return _values(subject, block_norms(jacobian), block_norms((jacobian - jacobian.T) / 2))


def _values(subject: Subject, norms: Floats, antisymmetric_norms: Floats) -> dict[str, Any]:
    """Return λ and norms, from those of pairs of free atoms, each of shape [n_free, n_free]."""
    norm, antisymmetric_norm = np.linalg.norm(norms), np.linalg.norm(antisymmetric_norms)
    distances = subject.atoms.get_all_distances(mic=bool(subject.atoms.pbc.any()))
    chosen = np.ix_(subject.free, subject.free)
    return {
        "lambda": float(antisymmetric_norm / norm) if norm > 0 else math.nan,
        "jacobian_norm": float(norm),
        "antisymmetric_norm": float(antisymmetric_norm),
        "pairs": by_distance(distances[chosen], norms, antisymmetric_norms),
    }


def _columns(
    kinds: list[str], displacement: float, subject: Subject, path: Path, deadline: Deadline
) -> Floats:
    """Return the columns of J computed so far, shape [n_columns, n_kinds, 3 n_free].

    Columns are appended to a file, so that a later attempt continues after the last complete one.
    """
    size = 3 * len(subject.free)
    path.touch()
    n_done = path.stat().st_size // (8 * size * len(kinds))
    n_each = max(subject.n_per_request // 2, 1)
    with path.open("r+b") as file, subject.progress.bar("λ by differences", size, n_done) as bar:
        file.truncate(n_done * 8 * size * len(kinds))
        file.seek(0, 2)
        while n_done < size and not deadline.is_over:
            chosen = np.arange(n_done, min(n_done + n_each, size))
            file.write(_some_columns(kinds, displacement, subject, chosen).tobytes())
            file.flush()
            n_done += len(chosen)
            bar.update(len(chosen))
    return np.fromfile(path).reshape(-1, len(kinds), size)


def _some_columns(
    kinds: list[str], displacement: float, subject: Subject, chosen: NDArray[np.intp]
) -> Floats:
    """Return columns of J, shape [n_chosen, n_kinds, 3 n_free]."""
    outputs = [f"{kind}_forces" for kind in kinds]
    free = subject.free
    moved = []
    for sign in (1.0, -1.0):
        for coordinate in chosen:
            positions = subject.atoms.positions.copy()
            positions[free[coordinate // 3], coordinate % 3] += sign * displacement
            moved.append(positions)
    predictions = subject.predict(moved, outputs)
    forces = np.array(
        [[getattr(each, output)[free].ravel() for output in outputs] for each in predictions]
    )
    after, before = forces[: len(chosen)], forces[len(chosen) :]
    columns: Floats = (after - before) / (2.0 * displacement)
    return columns
