"""The training recipe, which is read from a TOML file, and its hash."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from twinforce_models.potentials.hybrid_net.core import Hyperparameters

CompiledPart = Literal["step", "messages", "nothing"]
OptimizerName = Literal["adamw", "muon"]

# Marks a field that older recipes lack: at its default, it does not change the hash of a recipe.
_ADDED_LATER = {"is_added_later": True}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of the terms of the loss; 0 leaves a term out.

    Attributes:
        energy: Weight of the energy per atom.
        conservative_forces: Weight of the conservative forces, -dE/dr.
        direct_forces: Weight of the direct forces.
        direct_stress: Weight of the direct stress. Where the data have no stress, its label is the
            conservative stress of the model.
        conservative_stress: Weight of the conservative stress, where the data have a stress.
        agreement: Weight of the difference between both kinds of forces. The gradient acts on both.
        smoothness: Weight of the change of that difference between a system and its twin a few fs
            later. Differences that change this fast limit multiple time stepping.
        change: Weight of the change of the error of the direct forces between a system and its
            twin, for a model that provides the inner forces of multiple time stepping under the
            model that labeled the data.
    """

    energy: float
    conservative_forces: float = 0.0
    direct_forces: float = 0.0
    direct_stress: float = 0.0
    conservative_stress: float = field(default=0.0, metadata=_ADDED_LATER)
    agreement: float = field(default=0.0, metadata=_ADDED_LATER)
    smoothness: float = field(default=0.0, metadata=_ADDED_LATER)
    change: float = field(default=0.0, metadata=_ADDED_LATER)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of training, with its own learning-rate schedule.

    Attributes:
        name: Name of the stage in logs.
        epochs: Number of passes over the training systems.
        learning_rate: Highest learning rate, reached by a linear rise and followed by a half
            cosine down to 0.
        warmup: Fraction of the stage that the rise takes.
        weights: Weights of the terms of the loss.
        compiled: Part of a step that is compiled, unless nothing is to be compiled: "step" for all
            of it, which takes minutes; "messages" for the sums over neighbors, in direct stages
            only; or "nothing".
    """

    name: str
    epochs: int
    learning_rate: float
    weights: Weights
    warmup: float = 0.05
    compiled: CompiledPart = field(default="step", metadata=_ADDED_LATER)

    def __post_init__(self) -> None:
        """Check `compiled`.

        Raises:
            ValueError: If it is unknown, or "messages" in a conservative stage.
        """
        allowed = ("step", "nothing") if self.is_conservative else get_args(CompiledPart)
        if self.compiled not in allowed:
            raise ValueError(
                f"stage {self.name!r}: compiled: expected one of {', '.join(allowed)}, got "
                f"{self.compiled!r}"
            )

    @property
    def is_conservative(self) -> bool:
        """True if steps need the gradient of the energy."""
        w = self.weights
        return max(w.conservative_forces, w.conservative_stress, w.agreement, w.smoothness) > 0


@dataclass(frozen=True, slots=True)
class TableShape:
    """The fixed shape of a neighbor table into which systems are packed, so that steps compile.

    Attributes:
        n_atoms: Number of rows, for the atoms of all systems together.
        n_neighbors: Number of entries in a row.
        n_systems: Largest number of systems.
    """

    n_atoms: int
    n_neighbors: int
    n_systems: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of the dynamics that sample additional training systems with a finished model.

    The model labels the systems itself. Each run of Langevin dynamics with conservative forces
    starts from another training system with small forces.

    Attributes:
        n_runs: Number of runs.
        n_systems_per_run: Number of systems that are kept from each run.
        temperatures_k: Temperatures of the runs, in turn, in K.
        time_step_fs: Time step, in fs.
        relaxation_fs: Relaxation time of the thermostat, in fs.
        n_settling_steps: Number of steps before the first system is kept.
        n_steps_between: Number of steps between two systems that are kept.
        n_steps_to_twin: Number of steps from a kept system to its twin, which is kept too; 0 for no
            twins.
    """

    n_runs: int
    n_systems_per_run: int
    temperatures_k: tuple[float, ...]
    time_step_fs: float = 1.0
    relaxation_fs: float = 50.0
    n_settling_steps: int = 80
    n_steps_between: int = 8
    n_steps_to_twin: int = field(default=0, metadata=_ADDED_LATER)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings that determine the result of a training run, apart from the data.

    Attributes:
        name: Name of the model.
        seed: Seed of the initial weights, the split and the order of samples.
        test_fraction: Fraction of the data that is kept out of training, chosen at random.
        hyperparameters: Hyperparameters of the network.
        stages: Stages in order; each starts from the weights of the one before.
        force_tolerance: Limit between quadratic and linear loss of a force error, in eV/Å.
        energy_tolerance: Limit between quadratic and linear loss of an energy error per atom, in
            eV.
        ema_decay: Decay of the exponential moving average of the weights, which is evaluated and
            exported.
        max_gradient_norm: Largest norm of a gradient; longer ones are clipped.
        weight_decay: Weight decay of the optimizer.
        evaluate_every: Number of epochs between evaluations of the test systems.
        split_key: Key of an example's `info` whose value is "train" or "test"; it replaces
            `test_fraction`.
        tables: Shapes of the samples, one of which a step evaluates. Each system goes into the
            narrowest table that it fits. Empty: each system is a sample, and all have one size.
        balance: Exponent of the weight of an element's errors, which are divided by the root mean
            square force on the element to this power.
        sampling: Settings of the dynamics that add systems to the data. None: no systems are added.
        group_key: Key of an example's `info` whose value, an integer, is the same for an example
            and its twin, the next example. Empty: the data have no twins.
        optimizer: "adamw", or "muon", which needs fewer steps.
        stress_offsets: Volume times stress that labels contain in excess, per atom of each element
            of the network, in eV; it is subtracted from the labels. Plane-wave calculations with
            too few waves have such an error, the Pulay stress: their stress is then not the
            derivative of their energy. Empty: labels are used as they are.
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
    split_key: str = field(default="", metadata=_ADDED_LATER)
    tables: tuple[TableShape, ...] = field(default=(), metadata=_ADDED_LATER)
    balance: float = field(default=0.0, metadata=_ADDED_LATER)
    sampling: Sampling | None = field(default=None, metadata=_ADDED_LATER)
    group_key: str = field(default="", metadata=_ADDED_LATER)
    optimizer: OptimizerName = field(default="adamw", metadata=_ADDED_LATER)
    stress_offsets: tuple[float, ...] = field(default=(), metadata=_ADDED_LATER)

    def __post_init__(self) -> None:
        """Check `optimizer` and `stress_offsets`.

        Raises:
            ValueError: If the optimizer is unknown, or the number of offsets is not that of the
                elements.
        """
        n_elements = len(self.hyperparameters.elements)
        if self.stress_offsets and len(self.stress_offsets) != n_elements:
            raise ValueError(
                f"stress_offsets: expected one for each of {n_elements} elements, got "
                f"{len(self.stress_offsets)}"
            )
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(
                f"optimizer: expected one of {', '.join(get_args(OptimizerName))}, got "
                f"{self.optimizer!r}"
            )

    def sha256(self) -> str:
        """Return a hash of all values."""
        text = json.dumps(_values(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _values(part: Any) -> Any:
    """Return a dataclass as a dictionary, without fields added later that have their default."""
    if isinstance(part, tuple):
        return [_values(each) for each in part]
    if not is_dataclass(part):
        return part
    return {
        each.name: _values(getattr(part, each.name))
        for each in fields(part)
        if not (each.metadata.get("is_added_later") and getattr(part, each.name) == each.default)
    }


@dataclass(frozen=True, slots=True)
class DataSource:
    """A source of training data.

    Attributes:
        citation: Authors, journal and year.
        doi: DOI of the publication.
        licence: License of the data.
        n_systems: Number of systems that are used.
        note: Where and how the data were published.
    """

    citation: str
    doi: str
    licence: str
    n_systems: int
    note: str


@dataclass(frozen=True, slots=True)
class LabelingModel:
    """The model that labeled the training data, for the model card.

    Attributes:
        teacher: Name or spec of the model.
        teacher_sha256: Hash of its weights; empty if it is unknown.
        description: The data: their origin and number, for example.
        licence: License of its weights.
        temperatures_k: Temperatures of the dynamics that sampled the data, in K.
    """

    teacher: str
    teacher_sha256: str = ""
    description: str = ""
    licence: str = ""
    temperatures_k: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """Text of the model card that has no effect on training.

    Attributes:
        version: Version of the weights.
        description: Description of the model in a sentence or two.
        level_of_theory: Level of theory of the labels.
        licence: License of the weights.
        limits: Systems for which the model is not suitable.
        training_data: Sources of the labels.
        teacher: Model that labeled the training data, or None.
    """

    version: str = "1"
    description: str = "A hybrid potential: one energy, conservative and direct forces."
    level_of_theory: str = "not specified"
    licence: str = "not specified"
    limits: str = "The model is reliable only for systems similar to its training data."
    training_data: tuple[DataSource, ...] = ()
    teacher: LabelingModel | None = None


def read_recipe(path: Path) -> tuple[Recipe, About]:
    """Read a TOML file with the fields of a `Recipe`, and those of an `About` under `about`.

    Raises:
        ValueError: If a key is missing or unknown.
    """
    values: dict[str, Any] = tomllib.loads(path.read_text())
    try:
        about = values.pop("about", {})
        sources = tuple(DataSource(**source) for source in about.pop("training_data", []))
        if teacher := about.pop("teacher", None):
            about["teacher"] = labeling_model(teacher)
        stages = tuple(
            Stage(**(stage | {"weights": Weights(**stage["weights"])}))
            for stage in values.pop("stages")
        )
        network = Hyperparameters.from_values(values.pop("hyperparameters"))
        values["stress_offsets"] = tuple(values.pop("stress_offsets", ()))
        values["tables"] = tuple(TableShape(**table) for table in values.pop("tables", []))
        if sampling := values.pop("sampling", None):
            temperatures = tuple(sampling.pop("temperatures_k"))
            values["sampling"] = Sampling(**sampling, temperatures_k=temperatures)
        return Recipe(**values, hyperparameters=network, stages=stages), About(
            **about, training_data=sources
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def labeling_model(values: Mapping[str, Any]) -> LabelingModel:
    """Return the description of a teacher from the values of a file.

    Raises:
        TypeError: If a key is missing or unknown.
    """
    temperatures = tuple(float(each) for each in values.get("temperatures_k", ()))
    return LabelingModel(**{**values, "temperatures_k": temperatures})
