"""What a trajectory needs to go on bit for bit, in a file without pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.steps import State
from twinforce_proto import OUTPUTS, Prediction

_FORMAT = "twinforce restart 1"


@dataclass(frozen=True, slots=True, eq=False)
class Restart:
    """A walker between two steps.

    Attributes:
        state: Where it is.
        numbers: Of its atoms, shape [n_atoms].
        masses: In amu, shape [n_atoms].
        n_steps: How many outer ones it has taken.
        settings: How it steps, in words; only the same go on.
        rng: The state of its random numbers, as numpy's bit generators give it.
    """

    state: State
    numbers: NDArray[np.int64]
    masses: NDArray[np.float64]
    n_steps: int
    settings: Mapping[str, str]
    rng: Mapping[str, Any]

    def save(self, path: Path | str) -> None:
        """Write it; a file that is there is replaced at once, or not at all."""
        path = Path(path)
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
        beside = path.with_name(path.name + ".part")
        with beside.open("wb") as file:
            np.savez(
                file,
                format=_FORMAT,
                numbers=self.numbers,
                masses=self.masses,
                n_steps=self.n_steps,
                settings=json.dumps(dict(self.settings)),
                rng=json.dumps(self.rng, default=np.ndarray.tolist),
                **state,
                **prediction,
            )
        beside.replace(path)

    def check(
        self,
        path: Path | str,
        numbers: NDArray[np.int64],
        masses: NDArray[np.float64],
        settings: Mapping[str, str],
    ) -> None:
        """Refuse to go on with other atoms, or in another way.

        Raises:
            ValueError: Says what differs.
        """
        if not np.array_equal(self.numbers, numbers):
            raise ValueError(f"{path}: was saved for other atoms ({len(self.numbers)} of them)")
        if not np.array_equal(self.masses, masses):
            raise ValueError(f"{path}: was saved with other masses of these atoms")
        for name, value in settings.items():
            if self.settings.get(name) != value:
                got = self.settings.get(name)
                raise ValueError(f"{path}: expected one saved with {name} {value}, got {got}")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read one that was saved.

        Raises:
            ValueError: It is no such file.
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
                n_steps=int(stored["n_steps"]),
                settings=json.loads(str(stored["settings"])),
                rng=json.loads(str(stored["rng"])),
            )
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path}: expected a file that dynamics saved; {error}") from error


def _state(stored: Mapping[str, Any]) -> State:
    prediction = {
        name: stored[f"prediction_{name}"] for name in OUTPUTS if f"prediction_{name}" in stored
    }
    if "energy" in prediction:
        prediction["energy"] = float(prediction["energy"])
    return State(
        positions=stored["positions"],
        momenta=stored["momenta"],
        cell=stored["cell"],
        prediction=Prediction(**prediction),
        supplied=float(stored["supplied"]),
        correction_work=float(stored["correction_work"]),
    )
