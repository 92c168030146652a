"""The preparation of a step: all that it depends on besides coordinates and momenta."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from ase import Atoms

from twinforce._systems import labels_in
from twinforce.ase.checks import check_atoms, check_momenta, check_outputs, mobility_of
from twinforce.ase.sources import ForceSource, force_source_of
from twinforce_dynamics.bath import Bath
from twinforce_dynamics.disagreement import Species
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import Floats, ForceFunction
from twinforce_dynamics.trajectory import Stepper, outputs_of


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """All that steps of some atoms depend on, read once and compared with the atoms at each step.

    Attributes:
        source: Source of the predictions.
        integrator: Time step, forces and ensemble.
        stepper: Steps, with the masses and the mobility of the atoms.
        species: Species of the atoms.
        inner: Function that evaluates inner steps.
        outer: Function that evaluates the ends of outer steps.
        outputs: Outputs that the end of an outer step needs.
    """

    source: ForceSource
    integrator: Integrator
    stepper: Stepper
    species: Species
    inner: ForceFunction
    outer: ForceFunction
    outputs: frozenset[str]

    @classmethod
    def of(
        cls,
        atoms: Atoms,
        integrator: Integrator,
        rng: np.random.Generator,
        before: Self | None = None,
    ) -> Self:
        """Prepare steps of these atoms as they are now.

        Args:
            atoms: Atoms with a calculator.
            integrator: Time step, forces and ensemble.
            rng: Generator of all random numbers.
            before: An earlier preparation, whose source is kept if it is for these atoms.

        Raises:
            ValueError: The atoms cannot be moved in this way.
            UnsupportedOutputError: The model lacks outputs that the steps need.
        """
        ensemble, forces = integrator.ensemble, integrator.force_kind
        check_atoms(atoms, ensemble)
        is_kept = before is not None and before.source.is_for(atoms)
        source = before.source if before is not None and is_kept else force_source_of(atoms)
        check_outputs(source.outputs, forces, ensemble)
        bath = Bath(ensemble, _masses_of(atoms), mobility_of(atoms), rng)
        stepper = Stepper(forces, integrator.stride, integrator.duration, bath)
        inner, outer = outputs_of(forces, ensemble)
        return cls(
            source,
            integrator,
            stepper,
            Species.of(atoms.numbers),
            source.force_function(inner),
            source.force_function(outer),
            outer,
        )

    def is_for(self, atoms: Atoms, integrator: Integrator, rng: np.random.Generator) -> bool:
        """Return True if nothing that was read from the atoms has changed since."""
        bath = self.stepper.bath
        return (
            self.source.is_for(atoms)
            and self.integrator == integrator
            and bath.rng is rng
            and np.array_equal(_masses_of(atoms), bath.masses)
            and _has_mobility(atoms, bath.mobile)
        )

    def fixed_atoms(self) -> list[int]:
        """Return the indices of atoms that do not move, in ascending order."""
        mobile = self.stepper.bath.mobile
        return [] if mobile is None else np.flatnonzero(mobile[:, 0] == 0.0).tolist()

    def described(self, atoms: Atoms) -> dict[str, Any]:
        """Return what a restart must find again in the atoms, besides species and masses."""
        labels = {name: np.asarray(value).tolist() for name, value in labels_in(atoms).items()}
        return {
            "pbc": atoms.pbc.tolist(),
            **labels,
            "fixed_atoms": self.fixed_atoms(),
        }

    def momenta_of(self, atoms: Atoms) -> Floats:
        """Return a copy of the momenta of the atoms; those of fixed atoms are zero.

        Raises:
            ValueError: A momentum is not finite; the message names the atom.
        """
        momenta: Floats = atoms.get_momenta()
        check_momenta(atoms, momenta)
        mobile = self.stepper.bath.mobile
        return momenta if mobile is None else momenta * mobile


def _masses_of(atoms: Atoms) -> Floats:
    """Return the masses, shape [n_atoms, 1], in amu."""
    masses: Floats = atoms.get_masses()[:, None]
    return masses


def _has_mobility(atoms: Atoms, mobile: Floats | None) -> bool:
    found = mobility_of(atoms)
    if found is None or mobile is None:
        return found is mobile
    return np.array_equal(found, mobile)
