"""The recipe as a TOML file, and its hash."""

import hashlib
import json
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from twinforce_models.potentials.hybrid_net.core import Hyperparameters

# A value that recipes did without at first; at its default it does not change their hash.
_LATER = {"is_later": True}


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each label counts in the loss; 0 leaves it out.

    Attributes:
        energy: Of the energy per atom.
        conservative_forces: Of minus the gradient.
        direct_forces: Of the direct head.
        direct_stress: Of the direct stress head; where the data have no stress, its label is the
            model's conservative stress.
        conservative_stress: Of the energy's answer to strain, where the data have a stress.
        agreement: Of the difference between both kinds of forces. Neither is the label: both give
            way.
        smoothness: Of how far that difference changes between a sampled system and its twin, a few
            fs later. What changes that fast is what multiple time stepping cannot bear.
    """

    energy: float
    conservative_forces: float = 0.0
    direct_forces: float = 0.0
    direct_stress: float = 0.0
    conservative_stress: float = field(default=0.0, metadata=_LATER)
    agreement: float = field(default=0.0, metadata=_LATER)
    smoothness: float = field(default=0.0, metadata=_LATER)


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass of the learning-rate schedule.

    Attributes:
        name: As it appears in logs.
        epochs: Times that every training system is seen.
        learning_rate: At its highest, after a linear rise; a half cosine falls from there to 0.
        warmup: Part of the stage that the rise takes.
        weights: Of the labels.
    """

    name: str
    epochs: int
    learning_rate: float
    weights: Weights
    warmup: float = 0.05

    @property
    def is_conservative(self) -> bool:
        """Whether steps need the gradient of the energy."""
        w = self.weights
        return max(w.conservative_forces, w.conservative_stress, w.agreement, w.smoothness) > 0


@dataclass(frozen=True, slots=True)
class Table:
    """A fixed shape that systems are packed into, so that it can be compiled.

    Attributes:
        n_atoms: Rows, of all its systems together.
        n_neighbors: Entries of a row.
        n_systems: At most.
    """

    n_atoms: int
    n_neighbors: int
    n_systems: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """Systems that a finished model meets and labels itself, to be trained on beside the data.

    Langevin dynamics with conservative forces, each run from another calm training system.

    Attributes:
        n_runs: How many runs.
        n_systems_per_run: How many systems are kept of each.
        temperatures_k: Of the runs, in turn, in K.
        time_step_fs: In fs.
        relaxation_fs: Of the thermostat, in fs.
        n_settling_steps: Before the first system is kept.
        n_steps_between: Between two that are kept.
        n_steps_to_twin: From each kept system to its twin, which is kept beside it. 0: no twins.
    """

    n_runs: int
    n_systems_per_run: int
    temperatures_k: tuple[float, ...]
    time_step_fs: float = 1.0
    relaxation_fs: float = 50.0
    n_settling_steps: int = 80
    n_steps_between: int = 8
    n_steps_to_twin: int = field(default=0, metadata=_LATER)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run gives, the data apart.

    Attributes:
        name: Of the model.
        seed: Of the first weights, the split and the order of samples.
        test_fraction: Part of the data kept out of training, chosen at random.
        hyperparameters: Of the network.
        stages: In order; each begins where the one before ended.
        force_tolerance: Errors above it count linearly, below it quadratically, in eV/Å.
        energy_tolerance: Likewise per atom, in eV.
        ema_decay: Of the running mean of the weights, which is what is evaluated and kept.
        max_gradient_norm: Longer gradients are shortened to it.
        weight_decay: Of AdamW.
        evaluate_every: Epochs between evaluations of the test part.
        split_key: Entry of a frame's `info` that says "train" or "test"; instead of
            `test_fraction`.
        tables: A step sees what one of them holds: each system goes into the narrowest that it
            fits. None: every system is a step of its own, and all are of one size.
        balance: How far errors count relative to the forces of the element: each is divided by
            the root mean square of these to this power.
        sampling: What the model that training starts from adds to the data. None: nothing.
    """

    name: str
    seed: int
    test_fraction: float
    hyperparameters: Hyperparameters
    stages: tuple[Stage, ...]
    force_tolerance: float
    energy_tolerance: float
    ema_decay: float
    max_gradient_norm: float
    weight_decay: float
    evaluate_every: int
    split_key: str = field(default="", metadata=_LATER)
    tables: tuple[Table, ...] = field(default=(), metadata=_LATER)
    balance: float = field(default=0.0, metadata=_LATER)
    sampling: Sampling | None = field(default=None, metadata=_LATER)

    def sha256(self) -> str:
        """Return a hash of all values."""
        text = json.dumps(_values(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _values(part: Any) -> Any:
    """Return a dataclass as a dictionary, without later fields that are at their default."""
    if isinstance(part, tuple):
        return [_values(each) for each in part]
    if not is_dataclass(part):
        return part
    return {
        each.name: _values(getattr(part, each.name))
        for each in fields(part)
        if not (each.metadata.get("is_later") and getattr(part, each.name) == each.default)
    }


@dataclass(frozen=True, slots=True)
class Source:
    """Where training data come from.

    Attributes:
        citation: Authors, journal, year.
        doi: Of the publication.
        licence: Of the data.
        n_systems: How many of them are used.
        note: How they were published.
    """

    citation: str
    doi: str
    licence: str
    n_systems: int
    note: str


@dataclass(frozen=True, slots=True)
class About:
    """What a reader of the model card wants to know and training does not.

    Attributes:
        version: Of the weights.
        description: In a sentence or two.
        level_of_theory: Of the labels.
        licence: Of the weights.
        limits: What it has not seen.
        training_data: Where the labels come from.
    """

    version: str = "1"
    description: str = "A hybrid potential: one energy, conservative and direct forces."
    level_of_theory: str = "not said"
    licence: str = "not said"
    limits: str = "It knows what is like its training data, and nothing else."
    training_data: tuple[Source, ...] = ()


def read_recipe(path: Path) -> tuple[Recipe, About]:
    """Read a TOML file that names every value of a `Recipe`, and an `About` under `about`.

    Raises:
        ValueError: If a key is missing or unknown.
    """
    values: dict[str, Any] = tomllib.loads(path.read_text())
    try:
        about = values.pop("about", {})
        sources = tuple(Source(**source) for source in about.pop("training_data", []))
        hyperparameters = values.pop("hyperparameters")
        hyperparameters["elements"] = tuple(hyperparameters["elements"])
        stages = tuple(
            Stage(**(stage | {"weights": Weights(**stage["weights"])}))
            for stage in values.pop("stages")
        )
        network = Hyperparameters(**hyperparameters)
        values["tables"] = tuple(Table(**table) for table in values.pop("tables", []))
        if sampling := values.pop("sampling", None):
            temperatures = tuple(sampling.pop("temperatures_k"))
            values["sampling"] = Sampling(**sampling, temperatures_k=temperatures)
        return Recipe(**values, hyperparameters=network, stages=stages), About(
            **about, training_data=sources
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
