"""The ASE calculator, which lets any program built on ASE use a TwinForce service.

atoms.calc = TwinForceCalculator("grpc://127.0.0.1:8001", force_kind="conservative")
"""

import copy
import warnings
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from twinforce._client import Client, Stream
from twinforce.ase.misuse import find_misuse
from twinforce.ase.systems import labels_of, system_of
from twinforce_proto import OUTPUTS, STRESSES, ModelInfo, Prediction, System, parse_outputs

ForceKind = Literal["conservative", "direct"]

_NO_NUMBERS = np.zeros(0, dtype=np.int32)


class DirectForcesWarning(UserWarning):
    """Direct forces are used where a gradient is needed."""


class TwinForceCalculator(Calculator):  # type: ignore[misc]
    """A calculator of energy, forces and stress that uses a TwinForce service.

    `force_kind` selects the forces and stress that ASE sees as `forces` and `stress`. `results`
    also holds every computed quantity under its own name: `conservative_forces`, `direct_forces`,
    `conservative_stress`, `direct_stress` (each stress [3, 3], in eV/Å³), `atom_energies`.

    If ASE requests another property of a system that was already evaluated, only that property is
    computed; for the next system, both are computed in one pass. Systems that differ in
    coordinates only, as in molecular dynamics, are sent over one stream. Charge and spin are read
    from `atoms.info` ("charge"; "spin_multiplicity" or "spin", both 2S + 1) if the model uses
    them. A pickled or copied calculator opens its own connection when it is used.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar = {"initial_charges", "initial_magmoms"}
    default_parameters: ClassVar[dict[str, Any]] = {
        "model": None,
        "force_kind": "conservative",
        "both_forces": False,
        "extra_outputs": (),
    }
    results: dict[str, Any]

    def __init__(
        self,
        url: str | Client,
        *,
        model: str | None = None,
        force_kind: ForceKind = "conservative",
        both_forces: bool = False,
        extra_outputs: Sequence[str] = (),
        timeout: float | None = 60.0,
        reconnect_timeout: float | Literal["timeout"] | None = "timeout",
    ) -> None:
        """Create a calculator; no connection is made yet.

        Args:
            url: Address of the service, such as grpc://host:8001; or a client, which several
                calculators may share and which `close` leaves open.
            model: Name of the model. None means the only one that is served, or else `water`.
            force_kind: Kind of the forces and of the stress that ASE sees.
            both_forces: True to compute both kinds of forces in one pass whenever forces are
                computed.
            extra_outputs: Other quantities, out of `twinforce.OUTPUTS`, to compute with forces.
            timeout: Seconds that one request may take; see `Client`. This and the next argument
                are for a client that is created from `url`.
            reconnect_timeout: Seconds for which a service that cannot be reached is tried again.

        Raises:
            ValueError: The url is not the address of a service, or an argument is invalid.
        """
        self._owns_client = isinstance(url, str)
        if isinstance(url, str):
            url = Client(url, timeout=timeout, reconnect_timeout=reconnect_timeout)
        self._client = url
        self._stream: Stream | None = None
        self._info: ModelInfo | None = None
        self._labels: dict[str, float | int] = {}
        self._numbers: NDArray[np.int32] = _NO_NUMBERS
        self._prediction: Prediction | None = None
        self._requested: frozenset[str] = frozenset()
        self._requested_before: frozenset[str] = frozenset()
        self._has_warned = False
        super().__init__(
            model=model,
            force_kind=force_kind,
            both_forces=both_forces,
            extra_outputs=tuple(extra_outputs),
        )

    @property
    def client(self) -> Client:
        """The client that makes the requests."""
        return self._client

    @property
    def force_kind(self) -> ForceKind:
        """Kind of the forces that ASE sees."""
        kind: ForceKind = self.parameters["force_kind"]
        return kind

    @property
    def prediction(self) -> Prediction | None:
        """The last prediction, with its provenance and timings."""
        return self._prediction

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Change `model`, `force_kind`, `both_forces` or `extra_outputs`, and discard results."""
        if unknown := parameters.keys() - self.default_parameters.keys():
            raise TypeError(f"unknown parameter: {', '.join(sorted(unknown))}")
        if parameters.get("force_kind", "direct") not in ("conservative", "direct"):
            got = parameters["force_kind"]
            raise ValueError(f"force_kind: expected 'conservative' or 'direct', got {got!r}")
        if parameters.get("extra_outputs"):
            parse_outputs(parameters["extra_outputs"])
        changed: dict[str, Any] = super().set(**parameters)
        if changed:
            self.reset()
            self._discard_state()
        return changed

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return the changes since the last calculation, of charge and spin too if they matter."""
        changes: list[str] = super().check_state(atoms, tol)
        if not changes and self._info is not None:
            changes += [] if labels_of(atoms, self._info) == self._labels else ["info"]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = tuple(all_changes),
    ) -> None:
        """Compute these properties and store them in `results`.

        Raises:
            PropertyNotImplementedError: The model has no stress of this kind, or the system is
                not periodic in all directions.
            ServiceError: The request failed.
        """
        super().calculate(atoms, properties, system_changes)
        if system_changes:
            self.results = {}
            self._requested, self._requested_before = frozenset(), self._requested
        outputs = self._outputs_of(properties)
        self._requested |= outputs
        missing = (outputs | self._expected_outputs()) - self.results.keys()
        if missing:
            self._warn_of_misuse(missing)
            self._prediction = self._predict(missing)
            self.results.update(_results(self._prediction, self.force_kind))

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        return self._model_info()

    def evaluate(self, system: System, outputs: Collection[str]) -> Prediction:
        """Evaluate a system over the stream, without changing the atoms or results of ASE.

        Raises:
            ServiceError: The request failed.
        """
        if self._stream is None:
            self._stream = self._client.stream(self._model_info().name)
        return self._stream.predict(system, tuple(outputs))

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Store a prediction as the results for these atoms, so that ASE does not compute them."""
        self.atoms = atoms.copy()
        self._labels = labels_of(atoms, self._model_info())
        self._prediction = prediction
        self.results = _results(prediction, self.force_kind)

    def close(self) -> None:
        """End the stream, and close the client unless it was passed in."""
        self._end_stream()
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        own = {"_client": copy.copy(self._client), "_owns_client": True, "_stream": None}
        return self.__dict__ | own

    def _get_name(self) -> str:
        return "twinforce"

    def _discard_state(self) -> None:
        self._end_stream()
        self._info = self._prediction = None
        self._numbers = _NO_NUMBERS
        self._requested = self._requested_before = frozenset()
        self._has_warned = False

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _model_info(self) -> ModelInfo:
        if self._info is None:
            self._info = self._client.model(self.parameters["model"])
        return self._info

    def _outputs_of(self, properties: Collection[str]) -> frozenset[str]:
        outputs = {"energy"}
        if "energies" in properties:
            outputs.add("atom_energies")
        if "forces" in properties:
            outputs |= self._forces_outputs()
        if "stress" in properties:
            outputs.add(self._stress_output())
        return frozenset(outputs)

    def _forces_outputs(self) -> frozenset[str]:
        kinds = ("conservative", "direct") if self.parameters["both_forces"] else (self.force_kind,)
        return parse_outputs(
            [f"{kind}_forces" for kind in kinds] + [*self.parameters["extra_outputs"]]
        )

    def _stress_output(self) -> str:
        output = f"{self.force_kind}_stress"
        if not self.atoms.pbc.all():
            raise PropertyNotImplementedError(
                "stress: expected a system that is periodic in all three directions, got pbc "
                f"{self.atoms.pbc.tolist()}"
            )
        info = self._model_info()
        if output not in info.outputs:
            has = ", ".join(info.outputs)
            raise PropertyNotImplementedError(f"model {info.name!r} has no {output}; it has {has}")
        return output

    def _expected_outputs(self) -> frozenset[str]:
        """Return the outputs requested of the last system, which ASE will likely request again."""
        return self._requested_before if self.atoms.pbc.all() else self._requested_before - STRESSES

    def _predict(self, outputs: frozenset[str]) -> Prediction:
        system = system_of(self.atoms, self._model_info())
        self._labels = labels_of(self.atoms, self._model_info())
        is_walker = np.array_equal(system.atomic_numbers, self._numbers)
        self._numbers = system.atomic_numbers
        if not is_walker:
            return self._client.predict(system, tuple(outputs), self._model_info().name)
        return self.evaluate(system, outputs)

    def _warn_of_misuse(self, outputs: frozenset[str]) -> None:
        if self.force_kind != "direct" or self._has_warned or "direct_forces" not in outputs:
            return
        if misuse := find_misuse():
            self._has_warned = True
            warnings.warn(
                f"Direct forces are not the gradient of an energy: {misuse.purpose} will drift or "
                "not converge. Use force_kind='conservative', or a thermostat.",
                DirectForcesWarning,
                stacklevel=misuse.stacklevel,
            )


def _results(prediction: Prediction, force_kind: ForceKind) -> dict[str, Any]:
    """Return the `results` of ASE: each computed quantity under its own name and that of ASE.

    Every array is a copy, which callers may change.
    """
    values = {name: getattr(prediction, name) for name in OUTPUTS}
    stress = values[f"{force_kind}_stress"]
    values |= {
        "free_energy": values["energy"],
        "energies": values["atom_energies"],
        "forces": values[f"{force_kind}_forces"],
        "stress": None if stress is None else full_3x3_to_voigt_6_stress(stress),
    }
    return {
        name: np.array(value) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
        if value is not None
    }
