"""The restart files of `twinforce.ase.MultipleTimeStepping`, written without pickle.

A trajectory continues from such a file bit for bit. Reading one does not need ASE.
"""

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twinforce._files import replace_file
from twinforce._weights import ServedWeights
from twinforce_dynamics.ensembles import text_in_present_units
from twinforce_dynamics.steps import State
from twinforce_dynamics.units import in_fs
from twinforce_proto import OUTPUTS, Prediction

__all__ = ["Restart"]

_FORMAT = "twinforce restart 1"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Restart:
    """The state of a trajectory between two outer steps.

    Attributes:
        state: Positions, momenta, cell, prediction and accumulated energies.
        numbers: Atomic numbers, shape [n_atoms].
        masses: Masses in amu, shape [n_atoms].
        n_steps: Number of outer steps taken.
        settings: Settings of the dynamics as text; those that continue it must be the same.
        rng: State of the random numbers, as numpy's bit generators represent it.
        system: Periodicity, charge, spin multiplicity and fixed atoms, as JSON values; empty in
            files of earlier versions.
        weights: Weights of the model; None if they are not known.
        files: Facts about the files of the run, such as their lengths; see `twinforce.md`.
    """

    state: State
    numbers: NDArray[np.int64]
    masses: NDArray[np.float64]
    n_steps: int
    settings: Mapping[str, str]
    rng: Mapping[str, Any]
    system: Mapping[str, Any] = field(default_factory=dict)
    weights: ServedWeights | None = None
    files: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write the file; an existing one is replaced atomically.

        Raises:
            OSError: The file cannot be written, which leaves the old one; the error names it.
        """
        state = {
            each.name: getattr(self.state, each.name)
            for each in fields(State)
            if each.name != "prediction"
        }
        prediction = {
            f"prediction_{name}": value
            for name in OUTPUTS
            if (value := getattr(self.state.prediction, name)) is not None
        }
        known: dict[str, Any] = {
            "system": self.system and json.dumps(dict(self.system)),
            "weights": self.weights and json.dumps(asdict(self.weights)),
            "files": self.files and json.dumps(dict(self.files)),
        }
        content = io.BytesIO()
        np.savez(
            content,
            format=_FORMAT,
            numbers=self.numbers,
            masses=self.masses,
            n_steps=self.n_steps,
            settings=json.dumps(dict(self.settings)),
            rng=json.dumps(self.rng, default=np.ndarray.tolist),
            **{name: text for name, text in known.items() if text},
            **state,
            **prediction,
        )
        replace_file(path, content.getvalue())

    def check(
        self,
        path: Path | str,
        numbers: NDArray[np.int64],
        masses: NDArray[np.float64],
        settings: Mapping[str, str],
        system: Mapping[str, Any],
    ) -> None:
        """Check that dynamics of these atoms with these settings can continue from the file.

        Raises:
            ValueError: Atoms, masses, settings or the rest of the system differ; the message says
                which.
        """
        if not np.array_equal(self.numbers, numbers):
            raise ValueError(f"{path}: saved for other atoms ({len(self.numbers)} of them)")
        if not np.array_equal(self.masses, masses):
            raise ValueError(f"{path}: saved with other masses of these atoms")
        for name, value in settings.items():
            if self.settings.get(name) != value:
                told = f"{name} {_shown(name, value)}, got {_shown(name, self.settings.get(name))}"
                raise ValueError(f"{path}: expected a file saved with {told}")
        for name, value in self.system.items():
            if system.get(name) != value:
                got = system.get(name)
                raise ValueError(f"{path}: saved with {name} {value}; expected the same, got {got}")

    def check_weights(
        self, path: Path | str, weights: ServedWeights | None, *, allow_model_change: bool
    ) -> bool:
        """Return True if the stored prediction is that of these weights.

        Args:
            path: Path of the file.
            weights: Weights of the present model; None if the forces come from no service.
            allow_model_change: True to log a warning in place of the error.

        Raises:
            ModelChangedError: The file was saved with other weights.
            ValueError: Only one of the two has forces from a service.
        """
        if self.weights == weights:
            return True
        if self.weights is None:
            _LOG.warning("%s: the weights that it was saved with are not known; not checked", path)
            return True
        if weights is None:
            raise ValueError(
                f"{path}: saved with the model {self.weights} of a service; expected a "
                "TwinForceCalculator, got another calculator"
            )
        remedy = (
            "allow_model_change=True of the calculator, or --allow-model-change, goes on with them"
        )
        error = self.weights.changed_to(weights, f"which {path} was saved with", remedy)
        if not allow_model_change:
            raise error
        _LOG.warning("%s", error)
        return False

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ValueError: The file was not written by `save`.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                stored = dict(archive)
            if str(stored["format"]) != _FORMAT:
                raise ValueError(f"format {stored['format']}")
            return cls(
                state=_state(stored),
                numbers=stored["numbers"],
                masses=stored["masses"],
                n_steps=_n_steps(stored),
                settings=json.loads(str(stored["settings"])),
                rng=json.loads(str(stored["rng"])),
                system=json.loads(str(stored.get("system", "{}"))),
                weights=_weights(stored),
                files=json.loads(str(stored.get("files", "{}"))),
            )
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path}: expected a restart file; {error}") from error


def _shown(name: str, value: str | None) -> str:
    """Return a setting in the units of arguments, or as it is if it cannot be converted."""
    try:
        if value and name == "ensemble":
            return text_in_present_units(value)
        if value and name == "time-step":
            return f"{in_fs(float(value))!r} fs"
    except ValueError:
        pass
    return str(value)


def _weights(stored: Mapping[str, Any]) -> ServedWeights | None:
    if "weights" not in stored:
        return None
    return ServedWeights.from_dict(json.loads(str(stored["weights"])))


def _state(stored: Mapping[str, Any]) -> State:
    prediction = {
        name: stored[f"prediction_{name}"] for name in OUTPUTS if f"prediction_{name}" in stored
    }
    if "energy" in prediction:
        prediction["energy"] = float(prediction["energy"])
    state = State(
        positions=stored["positions"],
        momenta=stored["momenta"],
        cell=stored["cell"],
        prediction=Prediction(**prediction),
        supplied=float(stored["supplied"]),
        correction_work=float(stored["correction_work"]),
    )
    state.check(len(stored["numbers"]), prediction)
    return state


def _n_steps(stored: Mapping[str, Any]) -> int:
    n_steps = int(stored["n_steps"])
    if n_steps < 0:
        raise ValueError(f"n_steps: expected a number from 0, got {n_steps}")
    return n_steps
