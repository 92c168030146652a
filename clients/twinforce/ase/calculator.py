"""The ASE calculator, which lets any program built on ASE use a TwinForce service.

atoms.calc = TwinForceCalculator("grpc://127.0.0.1:8001", force_kind="conservative")
"""

import copy
import os
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal, Self

from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    PropertyNotPresent,
    all_changes,
    external_calculators,
    register_calculator_class,
)

from twinforce._client import Client
from twinforce._systems import labels_of, system_of
from twinforce._transports.access import KeySource
from twinforce._transports.url import default_url
from twinforce._weights import ServedWeights
from twinforce.ase.errors import as_calculator_errors
from twinforce.ase.misuse import warn_of_misuse
from twinforce.ase.outputs import check_parameters, check_stress, has_volume, outputs_for
from twinforce.ase.results import Results, merged, outputs_in
from twinforce.ase.saved import PerAtom, database_entries, save
from twinforce.ase.served_model import CalculatorModel
from twinforce_proto import (
    OUTPUTS,
    STRESSES,
    ModelInfo,
    Prediction,
    Provenance,
    System,
    UnsupportedOutputError,
)

ForceKind = Literal["conservative", "direct"]


class TwinForceCalculator(Calculator):  # type: ignore[misc]
    """A calculator of energy, forces and stress that uses a TwinForce service.

    `force_kind` selects the forces and stress that ASE sees as `forces` and `stress`. All that was
    computed for the last atoms is in `prediction`, under its own name: `conservative_forces`,
    `direct_forces`, `conservative_stress`, `direct_stress` (each stress [3, 3], in eV/Å³),
    `atom_energies`. `get_property` takes these names too, and computes what is missing. The keys of
    `results` are names of ASE only, as ASE expects.

    If ASE requests another property of a system that was already evaluated, only that property is
    computed; for the next system, both are computed in one pass, as is whatever `always` names.
    Direct forces come with every energy, since they cost little more. Systems that differ in
    coordinates only, as in molecular dynamics, are sent over one stream. Charge and spin are read
    from `atoms.info` ("charge"; "spin_multiplicity" or "spin", both 2S + 1); a model that does not
    use them refuses them. Errors of one structure are also errors of ASE's calculators; see
    `twinforce.ase.errors`. A pickled or copied calculator opens its own connection when it is used.

    A calculator stays with the weights of the model that it used first. If the service has other
    ones later, for example after a restart, a `ModelChangedError` says so, and nothing is mixed.
    `reset` accepts them once, `allow_model_change` always.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar = {"initial_charges", "initial_magmoms"}
    nolabel: ClassVar = True  # for `ase run`
    default_parameters: ClassVar[dict[str, Any]] = {
        "model": None,
        "force_kind": "conservative",
        "both_forces": False,
        "extra_outputs": (),
        "always": (),
        "autosave": None,
    }
    results: dict[str, Any]

    def __init__(
        self,
        url: str | Client | None = None,
        *,
        model: str | None = None,
        force_kind: ForceKind = "conservative",
        both_forces: bool = False,
        extra_outputs: Sequence[str] = (),
        always: Sequence[str] = (),
        autosave: PerAtom | None = None,
        timeout: float | None = 60.0,
        reconnect_timeout: float | Literal["timeout"] | None = "timeout",
        allow_model_change: bool = False,
        key: KeySource | None = None,
        insecure_key: bool | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create a calculator; no connection is made yet.

        Args:
            url: Address of the service, such as grpc://host:8001; or a client, which several
                calculators may share and which `close` leaves open. None means the environment
                variable TWINFORCE_URL, or else grpc://127.0.0.1:8001.
            model: Name of the model. None means the only one that is served, or else `water`.
            force_kind: Kind of the forces and of the stress that ASE sees.
            both_forces: True to compute both kinds of forces in one pass whenever forces are
                computed.
            extra_outputs: Other quantities, out of `twinforce.OUTPUTS`, to compute with forces.
            always: Properties of ASE, such as ("forces", "stress"), to compute with whatever is
                requested, as far as they exist, for writers that expect them.
            autosave: "arrays" or "info" to save each prediction in the atoms, as `save_in` does.
            timeout: Seconds that one request may take; see `Client`. This and the next argument
                are for a client that is created from `url`.
            reconnect_timeout: Seconds for which a service that cannot be reached is tried again.
            allow_model_change: True to go on if the service has other weights of the model later.
            key: Key that the service asks for; see `Client` for this and the next arguments, which
                are for a client that is created from `url`.
            insecure_key: True to send the key without TLS, too.
            ca: File of certificates to trust.
            certificate: File of the client's own certificate.
            private_key: File of its private key.

        Raises:
            ValueError: The url is not the address of a service, or an argument is invalid.
        """
        owns_client = url is None or isinstance(url, str)
        if url is None or isinstance(url, str):
            url = Client(
                default_url() if url is None else url,
                timeout=timeout,
                reconnect_timeout=reconnect_timeout,
                key=key,
                insecure_key=insecure_key,
                ca=ca,
                certificate=certificate,
                private_key=private_key,
            )
        self._served = CalculatorModel(
            url, owns_client=owns_client, allow_model_change=allow_model_change
        )
        self._labels: dict[str, float | int] = {}
        self._requested: frozenset[str] = frozenset()
        self._requested_before: frozenset[str] = frozenset()
        # What the service refused for these atoms, so that it is not asked for it at each step.
        self._refused: frozenset[str] = frozenset()
        self._has_warned = False
        self._noticed: dict[str, Any] = {}
        super().__init__(
            model=model,
            force_kind=force_kind,
            both_forces=both_forces,
            extra_outputs=tuple(extra_outputs),
            always=tuple(always),
            autosave=autosave,
        )

    @property
    def client(self) -> Client:
        """The client that makes the requests."""
        return self._served.client

    @property
    def allow_model_change(self) -> bool:
        """True to go on with other weights of the model, with a logged warning."""
        return self._served.allow_model_change

    @allow_model_change.setter
    def allow_model_change(self, is_allowed: bool) -> None:
        self._served.allow_model_change = is_allowed

    @property
    def force_kind(self) -> ForceKind:
        """Kind of the forces that ASE sees."""
        kind: ForceKind = self.parameters["force_kind"]
        return kind

    @property
    def prediction(self) -> Prediction | None:
        """All that is known of the last atoms; provenance and timings are of the last reply."""
        return getattr(self.results, "prediction", None)

    @property
    def weights(self) -> ServedWeights:
        """The weights that the model began with."""
        self._notice_parameters()
        return self._served.weights

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Change parameters out of `default_parameters`, such as `model`, and discard results."""
        if unknown := parameters.keys() - self.default_parameters.keys():
            raise TypeError(f"unknown parameter: {', '.join(sorted(unknown))}")
        check_parameters(parameters, self.implemented_properties)
        changed: dict[str, Any] = super().set(**parameters)
        self._notice_parameters()
        return changed

    def reset(self) -> None:
        """Discard all results, and accept whichever weights the service has at the next use."""
        super().reset()
        self._served.forget()
        self._requested = self._requested_before = frozenset()
        self._has_warned = False

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return the changes since the last calculation, of charge and spin too.

        Parameters that were changed without `set` are noticed as well.
        """
        self._notice_parameters()
        changes: list[str] = super().check_state(atoms, tol)
        if not changes and labels_of(atoms) != self._labels:
            changes.append("info")
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property of ASE or a quantity of `twinforce.OUTPUTS`; compute it if necessary.

        Args:
            name: Name of the property, such as "forces" or "direct_forces".
            atoms: Atoms to return it for; None means those of the last calculation.
            allow_calculation: False to return None instead of computing anything.
        """
        if name not in OUTPUTS or name in self.implemented_properties:
            return super().get_property(name, atoms, allow_calculation)
        changes = [] if atoms is None else self.check_state(atoms)
        if changes or name not in outputs_in(self.prediction):
            if not allow_calculation:
                return None
            self.calculate(atoms, [name], changes)
        return self.results[name]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = tuple(all_changes),
    ) -> None:
        """Compute these properties and store them in `results`.

        Raises:
            PropertyNotImplementedError: The model has no stress of this kind, or the cell has no
                volume.
            ModelChangedError: The service has other weights of the model than before.
            ServiceError: The request failed. If that is due to these atoms, it is also a
                `CalculatorError` of ASE.
        """
        self._notice_parameters()
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("atoms: expected atoms to calculate properties of, got none")
        if not {"numbers", "cell", "pbc"}.isdisjoint(system_changes):
            self._refused = frozenset()
        if system_changes:
            self.results = {}
            self._requested, self._requested_before = frozenset(), self._requested
        outputs = outputs_for(properties, self.parameters)
        if outputs & STRESSES:
            check_stress(self.atoms, outputs, self.info)
        known = outputs_in(self.prediction)
        missing, expected = outputs - known, self._expected_outputs() - known
        if self.force_kind == "direct" and "direct_forces" in missing | expected:
            self._has_warned = self._has_warned or warn_of_misuse()
        self._compute(missing, expected, known)
        self._requested |= outputs
        self._autosave(atoms)

    def save_in(self, atoms: Atoms, per_atom: PerAtom = "arrays") -> None:
        """Save all that is known of atoms in their `arrays` and `info`, in place of what was saved.

        Both kinds of forces and the energies of atoms become arrays; the stresses, the disagreement
        of both forces and the provenance become entries of `info`. Nothing is computed.

        Args:
            atoms: Atoms of the last calculation.
            per_atom: "info" for files that have no columns of their own, such as .traj.

        Raises:
            PropertyNotPresent: Nothing was computed for these atoms as they are.
        """
        save(atoms, self._prediction_of(atoms), per_atom)

    def database_entries(self, atoms: Atoms) -> dict[str, dict[str, Any]]:
        """Return the arguments that make a database keep the same: `write(atoms, **entries)`.

        Raises:
            PropertyNotPresent: Nothing was computed for these atoms as they are.
        """
        return database_entries(atoms, self._prediction_of(atoms))

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        self._notice_parameters()
        return self._served.info

    def evaluate(self, system: System, outputs: Collection[str]) -> Prediction:
        """Evaluate a system over the stream, without changing the atoms or results of ASE.

        Raises:
            ServiceError: The request failed.
        """
        return self._served.follow(system, outputs)

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Store a prediction as the results for these atoms, so that ASE does not compute them."""
        self.atoms = atoms.copy()
        self._labels = labels_of(atoms)
        self.results = Results(prediction, self.force_kind)
        self._autosave(atoms)

    def check_weights(self, source: Provenance | ModelInfo | None) -> None:
        """Check that a reply is from the weights that the first one was from.

        Raises:
            ModelChangedError: It is from others, and `allow_model_change` is False.
        """
        self._served.check(source)

    def find_model(self) -> ModelInfo:
        """Ask the service for the model again, and return its description.

        Raises:
            ModelChangedError: It has other weights, and `allow_model_change` is False.
        """
        return self._served.find()

    def close(self) -> None:
        """End the stream, and close the client unless it was passed in."""
        self._served.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_served": copy.copy(self._served)}

    def _get_name(self) -> str:
        return "twinforce"

    def _notice_parameters(self) -> None:
        """Discard what was computed with other parameters, changed by `set` or without it."""
        if self.parameters == self._noticed:
            return
        check_parameters(self.parameters, self.implemented_properties)
        kept, model = self._served.kept, self._noticed.get("model")
        self._noticed = dict(self.parameters)
        self._served.name = self._noticed["model"]
        self.reset()
        if self._noticed["model"] == model:
            self._served.kept = kept

    def _expected_outputs(self) -> frozenset[str]:
        """Return the outputs that ASE will likely request, those always wanted, and cheap ones."""
        always = self.parameters["always"]
        wanted = outputs_for(always, self.parameters) if always else frozenset()
        cheap = frozenset({"direct_forces"} if self.force_kind == "direct" else ())
        impossible = self._refused if has_volume(self.atoms) else self._refused | STRESSES
        return (self._requested_before | wanted | cheap) & set(self.info.outputs) - impossible

    def _prediction_of(self, atoms: Atoms) -> Prediction:
        changes = self.check_state(atoms)
        if changes or self.prediction is None:
            why = f"{' and '.join(changes)} changed since" if changes else "nothing was computed"
            raise PropertyNotPresent(f"atoms: expected those of the last calculation, but {why}")
        return self.prediction

    def _autosave(self, atoms: Atoms | None) -> None:
        per_atom = self.parameters["autosave"]
        if per_atom is not None and atoms is not None and self.prediction is not None:
            save(atoms, self.prediction, per_atom)

    def _compute(
        self, missing: frozenset[str], expected: frozenset[str], known: frozenset[str]
    ) -> None:
        """Compute what is missing, and what is expected as far as the service can.

        Raises:
            PropertyNotImplementedError: A stress that is missing does not exist.
            UnsupportedOutputError: Something else that is missing does not exist.
        """
        if extra := expected - missing:
            try:
                return self._add(missing | extra, known)
            except UnsupportedOutputError:
                self._refused |= extra
        try:
            self._add(missing, known)
        except UnsupportedOutputError as error:
            if missing.isdisjoint(STRESSES):
                raise
            raise PropertyNotImplementedError(str(error)) from error

    def _add(self, missing: frozenset[str], known: frozenset[str]) -> None:
        """Compute what is missing and add it to the results; other weights compute all anew."""
        if not missing:
            return
        before = self._served.kept.weights
        prediction = self._predict(missing)
        if known and self._served.kept.weights != before:
            prediction = self._predict(missing | known)
        elif known:
            prediction = merged(self.prediction, prediction)
        self.results = Results(prediction, self.force_kind)

    def _predict(self, outputs: frozenset[str]) -> Prediction:
        with as_calculator_errors():
            system = system_of(self.atoms)
        self._labels = labels_of(self.atoms)
        return self._served.evaluate(system, outputs)


# `ase.calculators.calculator.get_calculator_class("twinforce")` and `ase run` find it by this name.
if "twinforce" not in external_calculators:
    register_calculator_class("twinforce", TwinForceCalculator)
