"""The sizes and training settings of students: small networks that learn from another model."""

from dataclasses import dataclass

from twinforce_models.training.config import OptimizerName, Weights

_DIRECT = Weights(energy=1.0, direct_forces=1.0, direct_stress=0.1, change=4.0)
_CONSERVATIVE = Weights(
    energy=1.0,
    conservative_forces=0.5,
    conservative_stress=0.1,
    direct_forces=1.0,
    direct_stress=0.1,
    change=4.0,
)


@dataclass(frozen=True, slots=True)
class StudentPreset:
    """The settings of a student that do not depend on its data.

    Attributes:
        cutoff: Cutoff radius, in Å.
        n_scalars: Scalar features per atom.
        n_vectors: Vector features per atom.
        n_tensors: Rank-2 features per atom.
        n_layers: Number of message-passing layers.
        n_radial: Number of radial functions.
        n_atoms_per_step: Number of atoms that a step evaluates if systems are smaller than that.
        optimizer: Name of the optimizer.
        weight_decay: Weight decay of the optimizer.
        learning_rates: Highest learning rate of the direct and of the conservative stage.
        conservative_share: Share of the time that the conservative stage gets.
        force_tolerance: Limit between quadratic and linear loss of a force error, relative to the
            root mean square force of the data.
        energy_tolerance: The same for an energy error per atom, in eV.
        direct: Weights of the direct stage.
        conservative: Weights of the conservative stage.
    """

    cutoff: float
    n_scalars: int
    n_vectors: int
    n_tensors: int
    n_layers: int
    n_radial: int
    n_atoms_per_step: int = 192
    optimizer: OptimizerName = "muon"
    weight_decay: float = 0.04
    learning_rates: tuple[float, float] = (1e-2, 2.5e-3)
    conservative_share: float = 0.2
    force_tolerance: float = 0.02
    energy_tolerance: float = 0.0005
    direct: Weights = _DIRECT
    conservative: Weights = _CONSERVATIVE


PRESETS = {
    "fast": StudentPreset(
        cutoff=4.0, n_scalars=48, n_vectors=24, n_tensors=12, n_layers=2, n_radial=8
    ),
    "accurate": StudentPreset(
        cutoff=4.5, n_scalars=64, n_vectors=32, n_tensors=16, n_layers=3, n_radial=12
    ),
}
