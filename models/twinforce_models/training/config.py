"""The recipe as a TOML file, and its hash."""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinforce_models.potentials.hybrid_core import Hyperparameters


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each label counts in the loss; 0 leaves it out.

    Attributes:
        energy: Of the energy per atom.
        conservative_forces: Of minus the gradient.
        direct_forces: Of the direct head.
        direct_stress: Of the direct stress head; its label is the model's conservative stress.
    """

    energy: float
    conservative_forces: float = 0.0
    direct_forces: float = 0.0
    direct_stress: float = 0.0


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
        return self.weights.conservative_forces > 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run gives, the data apart.

    Attributes:
        name: Of the model.
        seed: Of the first weights, the split and the order of samples.
        test_fraction: Part of the data kept out of training.
        hyperparameters: Of the network.
        stages: In order; each begins where the one before ended.
        force_tolerance: Errors above it count linearly, below it quadratically, in eV/Å.
        energy_tolerance: Likewise per atom, in eV.
        ema_decay: Of the running mean of the weights, which is what is evaluated and kept.
        max_gradient_norm: Longer gradients are shortened to it.
        weight_decay: Of AdamW.
        evaluate_every: Epochs between evaluations of the test part.
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

    def sha256(self) -> str:
        """Return a hash of all values."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


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
        return Recipe(**values, hyperparameters=network, stages=stages), About(
            **about, training_data=sources
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
