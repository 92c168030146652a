"""The potential-energy surface that i-PI loads from this file.

i-PI gives lengths in bohr and cells with lattice vectors as columns, and wants hartree. Structures
that it gives as a list, such as the beads of a ring polymer, are one request.
"""

from collections.abc import Sequence
from typing import Any, Literal

import ase.io
import numpy as np
from ipi.utils.units import unit_to_internal, unit_to_user
from numpy.typing import NDArray

from twinforce import Client, Prediction, System
from twinforce._systems import has_periodic_volume, system_of
from twinforce._transports.url import default_url
from twinforce._weights import KeptWeights

__DRIVER_NAME__ = "twinforce"
__DRIVER_CLASS__ = "TwinForceDriver"

Floats = NDArray[np.float64]
Answer = tuple[float, Floats, Floats, str]


class TwinForceDriver:
    """A function of cells and positions, as i-PI calls it."""

    def __init__(
        self,
        template: str,
        url: str = "",
        model: str = "",
        forces: Literal["conservative", "direct"] = "conservative",
        stress: str | bool = "",
        timeout: float = 60.0,
        **_: Any,
    ) -> None:
        """Connect to a service.

        Args:
            template: File of the structure, in any format of ASE, with the elements in the order of
                i-PI, the periodicity and, in `info`, charge and spin.
            url: Address of the service. Empty: TWINFORCE_URL, or else grpc://127.0.0.1:8001.
            model: Name of the model. Empty: the only one that is served, or else `water`.
            forces: Kind of the forces and of the stress.
            stress: True to compute virials, which constant pressure needs; they are zero otherwise.
                Empty: for templates that are periodic, in some direction at least, and whose cell
                has a volume.
            timeout: Seconds that a request may take.

        Raises:
            ValueError: An argument is invalid.
            ServiceError: The service cannot be reached, or has no such model, forces or stress.
        """
        if forces not in ("conservative", "direct"):
            raise ValueError(f"forces: expected conservative or direct, got {forces!r}")
        self._system = system_of(ase.io.read(template))
        self._kind = forces
        is_default = stress == ""
        self._has_stress = has_periodic_volume(self._system) if is_default else _truth(stress)
        self._client = Client(url or default_url(), timeout=timeout)
        info = self._client.model(model or None)
        if missing := [name for name in self._outputs() if name not in info.outputs]:
            raise ValueError(f"model {info.name!r} lacks {', '.join(missing)}")
        self._model = info.name
        self._stream = self._client.stream(info.name)
        self._weights = KeptWeights("which the simulation began with", "start i-PI again")

    def __call__(
        self, cell: Floats | Sequence[Floats], pos: Floats | Sequence[Floats]
    ) -> Answer | list[Answer]:
        """Return energy, forces, virial and extras, of one structure or for each in a list."""
        if not isinstance(cell, list):
            system = self._moved(cell, pos)
            return self._answer(system, self._stream.predict(system, self._outputs()))
        systems = [self._moved(*each) for each in zip(cell, pos, strict=True)]
        predictions = self._client.predict(systems, self._outputs(), self._model)
        return [self._answer(*each) for each in zip(systems, predictions, strict=True)]

    def _outputs(self) -> tuple[str, ...]:
        stress = [f"{self._kind}_stress"] if self._has_stress else []
        return ("energy", f"{self._kind}_forces", *stress)

    def _moved(self, cell: Any, positions: Any) -> System:
        rows = unit_to_user("length", "angstrom", np.asarray(cell).T)
        moved = unit_to_user("length", "angstrom", np.asarray(positions).reshape(-1, 3))
        if len(moved) != len(self._system):
            n_atoms = len(self._system)
            raise ValueError(f"template: expected {len(moved)} atoms as in i-PI, got {n_atoms}")
        has_cell = self._system.pbc.any()
        return self._system.moved(moved, rows if has_cell else self._system.cell)

    def _answer(self, system: System, prediction: Prediction) -> Answer:
        self._weights.check(prediction.provenance, allow_others=False)
        forces = getattr(prediction, f"{self._kind}_forces")
        stress = getattr(prediction, f"{self._kind}_stress")
        virial = np.zeros((3, 3))
        if stress is not None:
            virial = -abs(np.linalg.det(system.cell)) * stress
        return (
            float(unit_to_internal("energy", "electronvolt", prediction.energy)),
            np.asarray(unit_to_internal("force", "ev/ang", forces)),
            np.asarray(unit_to_internal("energy", "electronvolt", virial)),
            "",
        )


def _truth(value: str | bool) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError(f"stress: expected true or false, got {value!r}")
    return found
