"""Settings of a distillation, and how its time is shared out."""

import math
from dataclasses import dataclass, field
from typing import Literal

from twinforce.distill.programs.services import ServiceOptions

StudentPreset = Literal["fast", "accurate"]

# Share of the time for each kind of work, in percent.
SAMPLING, TRAINING, MEASURING = 40.0, 35.0, 25.0
# Share of the last training in the time of all of them.
_LAST_TRAINING = 0.6
# Temperatures go this far above the highest that was asked for, so that the student also knows
# what fluctuations reach.
_MARGIN = 1.2
# Inner steps of the rounds in which a student drives; later rounds take as many as the last.
_INNER_STEPS = (1, 4, 8)
# Atoms in labeled systems that training can make use of, for each minute of the whole.
_ATOMS_PER_MINUTE = 6_000
_FEWEST_LABELS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """The settings of a distillation.

    Attributes:
        teacher: Spec of the teacher, or the name of a model of a running service.
        temperatures_k: Temperatures, in K; the student is measured at the first.
        strains: Isotropic strains of the cell at which to sample, besides 0.
        time_step_fs: Inner time step, in fs.
        hydrogen_mass: Mass of each hydrogen, in amu; None keeps masses.
        student: Preset of the student.
        rounds: Number of rounds of sampling and training.
        minutes: Wall time over all attempts, in minutes.
        seed: Seed of all random numbers.
        name: Name of the student.
        training_flags: Further flags for `twinforce-train`.
        service: Options of the services that are started.

    Raises:
        ValueError: A number is out of range; the message says which one.
    """

    teacher: str
    temperatures_k: tuple[float, ...] = (300.0,)
    strains: tuple[float, ...] = ()
    time_step_fs: float = 0.5
    hydrogen_mass: float | None = None
    student: StudentPreset = "fast"
    rounds: int = 3
    minutes: float = 60.0
    seed: int = 0
    name: str = "student"
    training_flags: tuple[str, ...] = ()
    service: ServiceOptions = field(default_factory=ServiceOptions)

    def __post_init__(self) -> None:
        for name, values in (
            ("--temperature", self.temperatures_k),
            ("--time-step", (self.time_step_fs,)),
            ("--minutes", (self.minutes,)),
            ("--rounds", (self.rounds,)),
        ):
            if not values or not all(0.0 < value < math.inf for value in values):
                got = ", ".join(f"{value:g}" for value in values) or "none"
                raise ValueError(f"{name}: expected positive numbers, got {got}")
        for strain in self.strains:
            if not -0.3 <= strain <= 0.3:
                raise ValueError(f"--strain: expected a number from -0.3 to 0.3, got {strain:g}")

    @property
    def temperature_k(self) -> float:
        """Temperature at which the student is measured, in K."""
        return self.temperatures_k[0]

    @property
    def sampled_temperatures_k(self) -> tuple[float, ...]:
        """Temperatures to sample at: those asked for, and one above them."""
        return (*dict.fromkeys(self.temperatures_k), round(_MARGIN * max(self.temperatures_k), 1))

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors of the length of the cell to sample at, 1 first."""
        return tuple(dict.fromkeys((1.0, *(1.0 + each for each in self.strains))))

    def inner_steps(self, round_number: int) -> int:
        """Return M of the sampling in a round; 1 means the teacher alone."""
        return _INNER_STEPS[min(round_number, len(_INNER_STEPS) - 1)]

    def phases(self) -> dict[str, float]:
        """Return the share of the time of each phase, in percent, in order."""
        n = self.rounds
        shares = {}
        for number in range(n):
            is_last = number == n - 1
            early = 0.0 if n == 1 else (1.0 - _LAST_TRAINING) / (n - 1)
            late = 1.0 if n == 1 else _LAST_TRAINING
            shares[f"sample-{number}"] = SAMPLING * self._sampling_share(number)
            shares[f"train-{number}"] = TRAINING * (late if is_last else early)
        shares["measure"] = MEASURING
        return shares

    def n_labels(self, n_atoms: int, round_number: int) -> int:
        """Return the number of labeled systems that a round should add for training.

        Args:
            n_atoms: Number of atoms of a system.
            round_number: Number of the round.
        """
        total = _ATOMS_PER_MINUTE * self.minutes / n_atoms
        return max(math.ceil(total * self._sampling_share(round_number)), _FEWEST_LABELS)

    def _sampling_share(self, round_number: int) -> float:
        """Return the share of a round in all sampling, which grows with the steps of the round.

        Labels of later rounds lie further apart, so that a student learns more from each.
        """
        return (round_number + 1) / (self.rounds * (self.rounds + 1) / 2)


def default_time_step_fs(lightest: float) -> float:
    """Return the time step for a system, in fs, from the mass of its lightest atom, in amu."""
    if lightest < 2.5:
        return 0.5
    return 1.0
