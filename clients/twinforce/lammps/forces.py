"""The forces on the atoms at a step: of one kind, or by multiple time stepping.

With hybrid forces, each step is driven by the direct forces f_d, and every M-th one by

    f = f_d + M (f_c - f_d)

so that the integrator of LAMMPS, which knows one time step, gives the correction as an impulse
every M steps: the impulse method of Tuckerman, Berne, Martyna, J. Chem. Phys. 97, 1990 (1992), as
`twinforce.ase.MultipleTimeStepping` has it.

    f_c -> conservative_forces,  f_d -> direct_forces,  M -> inner_steps
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.steps import check_inner_steps
from twinforce_proto import ModelInfo, Prediction, UnsupportedOutputError

Forces = Literal["conservative", "direct", "hybrid"]
_KINDS: dict[str, tuple[str, ...]] = {
    "conservative": ("conservative",),
    "direct": ("direct",),
    "hybrid": ("direct", "conservative"),
}


@dataclass(frozen=True, slots=True)
class ForceScheme:
    """The kind of forces, and the number of steps between corrections.

    Attributes:
        forces: Kind of forces.
        inner_steps: M, for hybrid forces.
        has_virial: True to compute stresses, too.

    Raises:
        ValueError: An argument is invalid.
    """

    forces: Forces
    inner_steps: int
    has_virial: bool

    def __post_init__(self) -> None:
        if self.forces not in _KINDS:
            raise ValueError(f"forces: expected {', '.join(_KINDS)}, got {self.forces!r}")
        check_inner_steps(self.inner_steps)

    def is_outer(self, step: int) -> bool:
        """Return True if the conservative forces act at this step."""
        return self.forces != "hybrid" or step % self.inner_steps == 0

    def outputs(self, step: int) -> tuple[str, ...]:
        """Return the outputs to request at a step."""
        kinds = _KINDS[self.forces] if self.is_outer(step) else ("direct",)
        stresses = [f"{kind}_stress" for kind in kinds] if self.has_virial else []
        return ("energy", *(f"{kind}_forces" for kind in kinds), *stresses)

    def check(self, info: ModelInfo) -> None:
        """Check that a model has what is needed.

        Raises:
            UnsupportedOutputError: It lacks outputs; the message says which ones.
        """
        if missing := [output for output in self.outputs(0) if output not in info.outputs]:
            raise UnsupportedOutputError.expected(
                "outputs", f"a model with {', '.join(missing)}", f"{info.name!r} without"
            )

    def forces_of(self, prediction: Prediction) -> NDArray[np.float64]:
        """Return the forces that act, shape [n_atoms, 3], in eV/Å."""
        direct, conservative = prediction.direct_forces, prediction.conservative_forces
        if self.forces != "hybrid" or conservative is None:
            found = direct if conservative is None else conservative
            assert found is not None
            return found
        assert direct is not None
        return direct + self.inner_steps * (conservative - direct)
