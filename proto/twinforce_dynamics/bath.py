"""The action of an ensemble on the atoms: thermostats, the barostat and degrees of freedom.

Every change of the momenta or the cell is added to the energy that the ensemble has supplied, so
that the conserved energy is known.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.ensembles import NPT, SVR, Ensemble, Langevin, thermostat_of
from twinforce_dynamics.steps import Floats, State, kinetic_energy, volume
from twinforce_dynamics.units import BAR, BOLTZMANN, FS

_NO_MOTION = (
    "momenta: expected nonzero momenta for every mobile atom, because velocity rescaling "
    "multiplies them, got zero; draw velocities first"
)


@dataclass(frozen=True, slots=True, eq=False)
class Bath:
    """An ensemble that acts on the atoms of one system.

    Attributes:
        ensemble: Ensemble that acts.
        masses: Shape [n_atoms, 1].
        mobile: 1 for atoms that move and 0 for fixed ones, shape [n_atoms, 1]. None: all move.
        rng: Generator of all random numbers.
    """

    ensemble: Ensemble
    masses: Floats
    mobile: Floats | None
    rng: np.random.Generator

    @property
    def keeps_momentum(self) -> bool:
        """True if nothing changes the total momentum, whose motion is then not thermal."""
        thermostat = thermostat_of(self.ensemble)
        is_global = thermostat is None or (
            isinstance(thermostat, SVR) and thermostat.scope == "global"
        )
        return is_global and self.mobile is None and len(self.masses) > 1

    @property
    def acts_in_the_middle(self) -> bool:
        """True if `apply_friction_and_strain` has an effect."""
        return isinstance(self.ensemble, NPT | Langevin)

    def degrees_of_freedom(self) -> float:
        """Return the number of degrees of freedom that share the kinetic energy."""
        return float(self._atom_degrees_of_freedom().sum())

    def thermal(self, momenta: Floats) -> Floats:
        """Return the momenta, relative to the center of mass if its motion is not thermal."""
        if not self.keeps_momentum:
            return momenta
        velocity = momenta.sum(axis=0) / self.masses.sum()
        thermal: Floats = momenta - self.masses * velocity
        return thermal

    def temperature_k(self, momenta: Floats) -> float:
        """Return 2 K / (k n) with n degrees of freedom, in K; NaN if no atom can move."""
        twice_kinetic = 2.0 * kinetic_energy(self.thermal(momenta), self.masses)
        return _temperature_k(twice_kinetic, self.degrees_of_freedom())

    def temperatures_k(
        self, momenta: Floats, indices: NDArray[np.intp], n_species: int
    ) -> tuple[float, list[float]]:
        """Return the temperature of all atoms and that of each species, as `temperature_k` does.

        Args:
            momenta: Shape [n_atoms, 3].
            indices: Index of the species of each atom, shape [n_atoms].
            n_species: Number of species.
        """
        thermal = self.thermal(momenta)
        twice_kinetic = np.einsum("ij,ij->i", thermal, thermal / self.masses)
        n_dof = self._atom_degrees_of_freedom()[:, 0]
        sums = np.bincount(indices, twice_kinetic, n_species).tolist()
        counts = np.bincount(indices, n_dof, n_species).tolist()
        overall = _temperature_k(math.fsum(sums), math.fsum(counts))
        return overall, list(map(_temperature_k, sums, counts))

    def can_rescale(self, momenta: Floats) -> bool:
        """Return False if this ensemble rescales momenta that are zero."""
        thermostat = thermostat_of(self.ensemble)
        if not isinstance(thermostat, SVR):
            return True
        if thermostat.scope == "global":
            return kinetic_energy(self.thermal(momenta), self.masses) > 0.0
        moves = (momenta != 0.0).any(axis=1)
        return bool((moves if self.mobile is None else moves | (self.mobile[:, 0] == 0.0)).all())

    def check_motion(self, momenta: Floats) -> None:
        """Check that this ensemble does not rescale momenta that are zero.

        Raises:
            ValueError: It does.
        """
        if not self.can_rescale(momenta):
            raise ValueError(_NO_MOTION)

    def rescale_momenta(self, state: State, duration: float) -> State:
        """Apply stochastic velocity rescaling for this long; other ensembles do nothing here."""
        thermostat = thermostat_of(self.ensemble)
        if not isinstance(thermostat, SVR):
            return state
        if thermostat.scope == "global":
            momenta = self._rescaled_globally(state.momenta, thermostat, duration)
        else:
            momenta = self._rescaled_locally(state.momenta, thermostat, duration)
        return self._with_momenta(state, momenta)

    def apply_friction_and_strain(
        self, state: State, total_stress: Floats | None, time_step: float
    ) -> tuple[State, Floats | None]:
        """Apply the barostat and Langevin's friction and noise, in the middle of a step.

        Returns:
            The new state and the strain of the cell, or None if the cell is fixed.
        """
        strain = None
        if isinstance(self.ensemble, NPT):
            if total_stress is None:
                raise ValueError("stress: expected one at constant pressure, got none")
            strain = self._strain(self.ensemble, state, total_stress, time_step)
            state = self._with_momenta(*_deformed(state, strain))
        thermostat = thermostat_of(self.ensemble)
        if isinstance(thermostat, Langevin):
            momenta = self._with_friction(state.momenta, thermostat, time_step)
            state = self._with_momenta(state, momenta)
        return state, strain

    def _atom_degrees_of_freedom(self) -> Floats:
        """Return the degrees of freedom of each atom, shape [n_atoms, 1].

        If the total momentum is conserved, an atom of mass m out of M has 3 (1 - m/M) of them.
        """
        if self.keeps_momentum:
            n_dof: Floats = 3.0 - 3.0 / self.masses.sum() * self.masses
            return n_dof
        return np.full_like(self.masses, 3.0) if self.mobile is None else 3.0 * self.mobile

    def _with_momenta(self, state: State, momenta: Floats) -> State:
        """Return the state with new momenta, and count the kinetic energy that they supply."""
        gain = kinetic_energy(momenta, self.masses) - kinetic_energy(state.momenta, self.masses)
        return replace(state, momenta=momenta, supplied=state.supplied + gain)

    def _rescaled_globally(self, momenta: Floats, thermostat: SVR, duration: float) -> Floats:
        thermal = self.thermal(momenta)
        kinetic = kinetic_energy(thermal, self.masses)
        if kinetic <= 0.0:
            raise ValueError(_NO_MOTION)
        n_dof = self.degrees_of_freedom()
        factor = _rescaling_factors(np.array([kinetic]), n_dof, thermostat, duration, self.rng)
        return momenta + (float(factor[0]) - 1.0) * thermal

    def _rescaled_locally(self, momenta: Floats, thermostat: SVR, duration: float) -> Floats:
        moves = np.ones(len(momenta), bool) if self.mobile is None else self.mobile[:, 0] > 0
        kinetic = 0.5 * (momenta * momenta / self.masses).sum(axis=1)[moves]
        if not (kinetic > 0.0).all():
            raise ValueError(_NO_MOTION)
        factors = np.ones((len(momenta), 1))
        factors[moves, 0] = _rescaling_factors(kinetic, 3.0, thermostat, duration, self.rng)
        return factors * momenta

    def _with_friction(self, momenta: Floats, thermostat: Langevin, duration: float) -> Floats:
        """Return p' = c p + sqrt((1 - c²) m kT) ξ with c = exp(-dt/τ)."""
        kept = math.exp(-duration / (thermostat.relaxation_fs * FS))
        spread = np.sqrt((1.0 - kept * kept) * BOLTZMANN * thermostat.temperature_k * self.masses)
        noise = spread * self.rng.standard_normal(momenta.shape)
        return kept * momenta + (noise if self.mobile is None else noise * self.mobile)

    def _strain(self, ensemble: NPT, state: State, total_stress: Floats, duration: float) -> Floats:
        """Return the logarithm of the deformation of one step, symmetric, shape [3, 3].

            ε = -(β/3τ) (P_0 - P) dt + sqrt(2 β kT dt / 3 V τ) R,    P = Σ p pᵀ/m V - σ

        This is the equation for the cell of Del Tatto et al. 2022, written for the logarithm,
        whose drift has no kT/V. Without its antisymmetric part the cell does not rotate; its trace
        changes the volume as the isotropic equation of Bernetti and Bussi 2020 does.
        """
        thermal = self.thermal(state.momenta)
        size = volume(state.cell)
        kt = BOLTZMANN * ensemble.thermostat.temperature_k
        compressibility = ensemble.compressibility_per_bar / BAR
        mobility = compressibility * duration / (3.0 * (ensemble.relaxation_fs * FS))
        pressure = (thermal / self.masses).T @ thermal / size - total_stress
        noise = math.sqrt(2.0 * mobility * kt / size) * self.rng.standard_normal((3, 3))
        strain = mobility * (pressure - ensemble.pressure_bar * BAR * np.eye(3)) + noise
        if ensemble.coupling == "isotropic":
            isotropic: Floats = np.trace(strain) / 3.0 * np.eye(3)
            return isotropic
        return 0.5 * (strain + strain.T)


def _temperature_k(twice_kinetic: float, n_dof: float) -> float:
    return twice_kinetic / (BOLTZMANN * n_dof) if n_dof > 1e-9 else math.nan


def _rescaling_factors(
    kinetic: Floats, n_dof: float, thermostat: SVR, duration: float, rng: np.random.Generator
) -> Floats:
    """Return the factors that rescale momenta with these kinetic energies.

        K' = (1 - c) kT/2 [(R + x)² + S],    x² = c K / ((1 - c) kT/2),    c = exp(-dt/τ)

    R + x -> first, where R is normally distributed;  S -> others, distributed as χ² with n_dof - 1
    degrees of freedom. The factor is sqrt(K'/K) with the sign of R + x. This is the equation in
    the appendix of Bussi et al. 2007, with the square completed.
    """
    kept = math.exp(-duration / (thermostat.relaxation_fs * FS))
    share = (1.0 - kept) * BOLTZMANN * thermostat.temperature_k / 2.0
    first = rng.standard_normal(len(kinetic)) + np.sqrt(kept * kinetic / share)
    others = rng.chisquare(n_dof - 1.0, len(kinetic)) if n_dof > 1.0 else 0.0
    factors: Floats = np.copysign(np.sqrt(share * (first**2 + others) / kinetic), first)
    return factors


def _deformed(state: State, strain: Floats) -> tuple[State, Floats]:
    """Return the state with r' = r exp(ε) and h' = h exp(ε), and its momenta p' = p exp(-ε)."""
    logarithms, axes = np.linalg.eigh(strain)
    stretch = (axes * np.exp(logarithms)) @ axes.T
    shrink = (axes * np.exp(-logarithms)) @ axes.T
    moved = replace(state, positions=state.positions @ stretch, cell=state.cell @ stretch)
    return moved, state.momenta @ shrink
