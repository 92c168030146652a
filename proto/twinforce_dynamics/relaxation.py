"""Relaxation: down to where forces vanish, on cheap direct forces first, on the gradient to finish.

    P = F·v;   v -> (1 - α) v + α |v| F/|F| while P > 0, else 0;   v += dt F;   r += dt v

FIRE (Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201 (2006)) with unit
masses and that paper's numbers; steps are no longer than 0.2 Å. The cell is fixed.
"""

from dataclasses import dataclass, replace

import numpy as np

from twinforce_dynamics.requests import RelaxRequest
from twinforce_dynamics.steps import Floats, Kind, Question, Steps
from twinforce_proto import Prediction, Provenance

# What each kind of forces is asked for with.
OUTPUTS_OF: dict[Kind, frozenset[str]] = {
    "direct": frozenset({"energy", "direct_forces"}),
    "conservative": frozenset({"energy", "conservative_forces"}),
}
# Hybrid relaxation changes over at this many times fmax, or after this many steps in which the
# largest direct force did not get smaller.
_SWITCH = 4.0
_PATIENCE = 40

_FIRST_STEP, _LONGEST_STEP, _GROWTH, _SHRINKAGE = 0.1, 1.0, 1.1, 0.5
_FIRST_MIXING, _MIXING_DECAY, _DELAY = 0.1, 0.99, 5
_MAX_MOVE = 0.2


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Relaxed:
    """How far a relaxation is.

    Attributes:
        step: How many it has taken.
        positions: Shape [n_atoms, 3], in Å.
        energy: In eV.
        largest_force: On an atom that moves, in eV/Å, of the kind that drives now.
        driven_by: That kind: "direct" or "conservative".
        is_converged: Whether no force of the kind that it is to end with is larger than fmax.
        is_last: Whether it ends here: converged, or after `max_steps`.
        provenance: What made it.
    """

    step: int
    positions: Floats
    energy: float
    largest_force: float
    driven_by: Kind
    is_converged: bool
    is_last: bool = True
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Descent:
    """Where a relaxation is, with all that its next step needs.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        prediction: There, of the kind that drives.
        driven_by: That kind.
        velocities: Of FIRE, shape [n_atoms, 3].
        time_step: Of FIRE.
        mixing: α.
        n_downhill: Steps since P was last not positive.
        smallest: The smallest that the largest force has been with this kind, in eV/Å.
        n_stale: Steps since then.
    """

    positions: Floats
    prediction: Prediction
    driven_by: Kind
    velocities: Floats
    time_step: float = _FIRST_STEP
    mixing: float = _FIRST_MIXING
    n_downhill: int = 0
    smallest: float = float("inf")
    n_stale: int = 0


class Relaxation:
    """The steps of a relaxation.

    Args:
        wanted: What is relaxed, and how far.
    """

    def __init__(self, wanted: RelaxRequest) -> None:
        self._wanted = wanted
        self._cell = wanted.system.cell
        self._last_kind: Kind = "direct" if wanted.force_kind == "direct" else "conservative"
        self._mobile = np.ones((len(wanted.system), 1))
        self._mobile[wanted.fixed_atoms] = 0.0

    def begin(self) -> Steps[Descent]:
        """Lead to where it sets out, by one evaluation."""
        first: Kind = "conservative" if self._wanted.force_kind == "conservative" else "direct"
        return self._arrive(self._wanted.system.positions, first)

    def step(self, descent: Descent) -> Steps[Descent]:
        """Lead through one step: a move, or a change from direct to conservative forces."""
        if descent.driven_by != self._last_kind and self._is_close(descent):
            return (yield from self._arrive(descent.positions, self._last_kind))
        pulls = self._pulls(descent)
        moved = _accelerated(descent, pulls)
        change = moved.time_step * moved.velocities
        longest = float(np.linalg.norm(change))
        if longest > _MAX_MOVE:
            change *= _MAX_MOVE / longest
        positions = descent.positions + change
        prediction = yield self._question(positions, descent.driven_by)
        return self._noted(replace(moved, positions=positions, prediction=prediction))

    def is_converged(self, descent: Descent) -> bool:
        """Tell whether no force of the kind that it is to end with is too large."""
        is_last = descent.driven_by == self._last_kind
        return is_last and self._largest(descent) <= self._wanted.fmax

    def report(self, descent: Descent, step: int) -> Relaxed:
        """Return what is to be told of it."""
        return Relaxed(
            step=step,
            positions=descent.positions,
            energy=descent.prediction.energy or 0.0,
            largest_force=self._largest(descent),
            driven_by=descent.driven_by,
            is_converged=self.is_converged(descent),
            is_last=self.is_converged(descent) or step >= self._wanted.max_steps,
            provenance=descent.prediction.provenance,
        )

    def _arrive(self, positions: Floats, kind: Kind) -> Steps[Descent]:
        prediction = yield self._question(positions, kind)
        at_rest = np.zeros_like(positions)
        descent = Descent(
            positions=positions, prediction=prediction, driven_by=kind, velocities=at_rest
        )
        return self._noted(descent)

    def _question(self, positions: Floats, kind: Kind) -> Question:
        return Question(positions, self._cell, is_whole=kind == "conservative")

    def _is_close(self, descent: Descent) -> bool:
        return descent.smallest <= _SWITCH * self._wanted.fmax or descent.n_stale >= _PATIENCE

    def _noted(self, descent: Descent) -> Descent:
        largest = self._largest(descent)
        if largest < descent.smallest:
            return replace(descent, smallest=largest, n_stale=0)
        return replace(descent, n_stale=descent.n_stale + 1)

    def _pulls(self, descent: Descent) -> Floats:
        pulls: Floats = getattr(descent.prediction, f"{descent.driven_by}_forces") * self._mobile
        return pulls

    def _largest(self, descent: Descent) -> float:
        return float(np.linalg.norm(self._pulls(descent), axis=1).max())


def _accelerated(descent: Descent, pulls: Floats) -> Descent:
    """Return it with what FIRE makes of velocities, time step and mixing."""
    velocities = descent.velocities
    mixing, time_step, n_downhill = _FIRST_MIXING, descent.time_step, 0
    if velocities.any():
        if float(np.vdot(pulls, velocities)) > 0.0:
            mixing, n_downhill = descent.mixing, descent.n_downhill + 1
            speed, size = float(np.linalg.norm(velocities)), float(np.linalg.norm(pulls))
            velocities = (1.0 - mixing) * velocities + mixing * speed / size * pulls
            if n_downhill > _DELAY:
                time_step = min(_GROWTH * time_step, _LONGEST_STEP)
                mixing *= _MIXING_DECAY
        else:
            velocities = np.zeros_like(velocities)
            time_step *= _SHRINKAGE
    return replace(
        descent,
        velocities=velocities + time_step * pulls,
        time_step=time_step,
        mixing=mixing,
        n_downhill=n_downhill,
    )
