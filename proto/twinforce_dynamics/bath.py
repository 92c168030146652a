"""What an ensemble does to atoms: thermostats, the barostat, and how many degrees of freedom count.

Every function says how much energy it put in, so that the conserved quantity can be told.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.ensembles import BOLTZMANN, NPT, SVR, Ensemble, Langevin, thermostat_of
from twinforce_dynamics.steps import Floats, State, kinetic_energy, volume


@dataclass(frozen=True, slots=True, eq=False)
class Bath:
    """An ensemble that acts on certain atoms.

    Attributes:
        ensemble: Which one.
        masses: Shape [n_atoms, 1].
        mobile: 1 for atoms that move and 0 for those that do not, shape [n_atoms, 1]. None: all.
        rng: Of all its random numbers.
    """

    ensemble: Ensemble
    masses: Floats
    mobile: Floats | None
    rng: np.random.Generator

    @property
    def keeps_momentum(self) -> bool:
        """Whether nothing changes the total momentum, whose motion is then no heat."""
        thermostat = thermostat_of(self.ensemble)
        is_global = thermostat is None or (
            isinstance(thermostat, SVR) and thermostat.scope == "global"
        )
        return is_global and self.mobile is None and len(self.masses) > 1

    def degrees_of_freedom(self, chosen: Floats | None = None) -> float:
        """Return how many share in kT/2: of all atoms, or of those chosen, shape [n_atoms, 1].

        Where the total momentum is kept, an atom of mass m out of M has 3 (1 - m/M) of them.
        """
        freedom = self._freedom()
        return float(freedom.sum() if chosen is None else (freedom * chosen).sum())

    def thermal(self, momenta: Floats) -> Floats:
        """Return momenta without the motion of the whole, where that is no heat."""
        if not self.keeps_momentum:
            return momenta
        velocity = momenta.sum(axis=0) / self.masses.sum()
        warm: Floats = momenta - self.masses * velocity
        return warm

    def temperature_k(self, momenta: Floats, chosen: Floats | None = None) -> float:
        """Return 2 K / (k n), of all atoms or of those chosen; in K, NaN where none can move."""
        n_dof = self.degrees_of_freedom(chosen)
        warm = self.thermal(momenta)
        if chosen is not None:
            warm = warm * chosen
        return _temperature_k(2.0 * kinetic_energy(warm, self.masses), n_dof)

    def temperatures_k(
        self, momenta: Floats, indices: NDArray[np.intp], n_species: int
    ) -> tuple[float, list[float]]:
        """Return that of all atoms and that of those of each species; as `temperature_k` does.

        Args:
            momenta: Shape [n_atoms, 3].
            indices: Of the species of each atom, shape [n_atoms].
            n_species: How many there are.
        """
        warm = self.thermal(momenta)
        twice = np.einsum("ij,ij->i", warm, warm / self.masses)
        freedom = self._freedom()[:, 0]
        sums = np.bincount(indices, twice, n_species).tolist()
        counts = np.bincount(indices, freedom, n_species).tolist()
        whole = _temperature_k(math.fsum(sums), math.fsum(counts))
        return whole, list(map(_temperature_k, sums, counts))

    def is_moving(self, momenta: Floats) -> bool:
        """Tell whether there is motion to rescale, if this ensemble rescales any."""
        thermostat = thermostat_of(self.ensemble)
        if not isinstance(thermostat, SVR):
            return True
        if thermostat.scope == "global":
            return kinetic_energy(self.thermal(momenta), self.masses) > 0.0
        moves = (momenta != 0.0).any(axis=1)
        return bool((moves if self.mobile is None else moves | (self.mobile[:, 0] == 0.0)).all())

    def rescale_momenta(self, state: State, duration: float) -> State:
        """Let stochastic velocity rescaling act for this long; nothing else acts here."""
        thermostat = thermostat_of(self.ensemble)
        if not isinstance(thermostat, SVR):
            return state
        if thermostat.scope == "global":
            momenta = self._rescaled_together(state.momenta, thermostat, duration)
        else:
            momenta = self._rescaled_each(state.momenta, thermostat, duration)
        return self._supplied(state, momenta)

    def apply_friction_and_strain(
        self, state: State, total_stress: Floats | None, time_step: float
    ) -> tuple[State, Floats | None]:
        """Let the barostat and Langevin's friction and noise act, in the middle of a step."""
        strain = None
        if isinstance(self.ensemble, NPT):
            if total_stress is None:
                raise ValueError("stress: expected one at constant pressure, got none")
            strain = self._strain(self.ensemble, state, total_stress, time_step)
            state = self._supplied(*_deformed(state, strain))
        thermostat = thermostat_of(self.ensemble)
        if isinstance(thermostat, Langevin):
            momenta = self._with_friction(state.momenta, thermostat, time_step)
            state = self._supplied(state, momenta)
        return state, strain

    @property
    def acts_in_the_middle(self) -> bool:
        """Whether `apply_friction_and_strain` does anything."""
        return isinstance(self.ensemble, NPT | Langevin)

    def _freedom(self) -> Floats:
        """Return the degrees of freedom of each atom, shape [n_atoms, 1]."""
        if self.keeps_momentum:
            freedom: Floats = 3.0 - 3.0 / self.masses.sum() * self.masses
            return freedom
        return np.full_like(self.masses, 3.0) if self.mobile is None else 3.0 * self.mobile

    def _supplied(self, state: State, momenta: Floats) -> State:
        """Return the state with these momenta, and the kinetic energy that they add counted."""
        gain = kinetic_energy(momenta, self.masses) - kinetic_energy(state.momenta, self.masses)
        return replace(state, momenta=momenta, supplied=state.supplied + gain)

    def _rescaled_together(self, momenta: Floats, thermostat: SVR, duration: float) -> Floats:
        warm = self.thermal(momenta)
        kinetic = kinetic_energy(warm, self.masses)
        if kinetic <= 0.0:
            raise ValueError(_NO_MOTION)
        n_dof = self.degrees_of_freedom()
        factor = _factors(np.array([kinetic]), n_dof, thermostat, duration, self.rng)
        return momenta + (float(factor[0]) - 1.0) * warm

    def _rescaled_each(self, momenta: Floats, thermostat: SVR, duration: float) -> Floats:
        moves = np.ones(len(momenta), bool) if self.mobile is None else self.mobile[:, 0] > 0
        kinetic = 0.5 * (momenta * momenta / self.masses).sum(axis=1)[moves]
        if not (kinetic > 0.0).all():
            raise ValueError(_NO_MOTION)
        factors = np.ones((len(momenta), 1))
        factors[moves, 0] = _factors(kinetic, 3.0, thermostat, duration, self.rng)
        return factors * momenta

    def _with_friction(self, momenta: Floats, thermostat: Langevin, duration: float) -> Floats:
        """Return p' = c p + sqrt((1 - c²) m kT) ξ with c = exp(-dt/τ)."""
        kept = math.exp(-duration / thermostat.relaxation)
        spread = np.sqrt((1.0 - kept * kept) * BOLTZMANN * thermostat.temperature_k * self.masses)
        noise = spread * self.rng.standard_normal(momenta.shape)
        return kept * momenta + (noise if self.mobile is None else noise * self.mobile)

    def _strain(self, ensemble: NPT, state: State, total_stress: Floats, duration: float) -> Floats:
        """Return the logarithm of the deformation of one step, symmetric, shape [3, 3].

            ε = -(β/3τ) (P_0 - P) dt + sqrt(2 β kT dt / 3 V τ) R,    P = Σ p pᵀ/m V - σ

        Del Tatto et al. 2022, eq. for the cell, written for the logarithm, whose drift has no
        kT/V. Without its antisymmetric part the cell does not turn; its trace moves the volume as
        the isotropic equation of Bernetti and Bussi 2020 does.
        """
        warm = self.thermal(state.momenta)
        size = volume(state.cell)
        kt = BOLTZMANN * ensemble.thermostat.temperature_k
        mobility = ensemble.compressibility * duration / (3.0 * ensemble.relaxation)
        pressure = (warm / self.masses).T @ warm / size - total_stress
        noise = math.sqrt(2.0 * mobility * kt / size) * self.rng.standard_normal((3, 3))
        strain = mobility * (pressure - ensemble.pressure * np.eye(3)) + noise
        if ensemble.coupling == "isotropic":
            isotropic: Floats = np.trace(strain) / 3.0 * np.eye(3)
            return isotropic
        return 0.5 * (strain + strain.T)


def _temperature_k(twice_kinetic: float, n_dof: float) -> float:
    return twice_kinetic / (BOLTZMANN * n_dof) if n_dof > 1e-9 else math.nan


_NO_MOTION = (
    "momenta: expected some of every atom that moves, as velocity rescaling multiplies them; got "
    "zero: draw velocities first"
)


def _factors(
    kinetic: Floats, n_dof: float, thermostat: SVR, duration: float, rng: np.random.Generator
) -> Floats:
    """Return what momenta of these kinetic energies are multiplied with.

        K' = (1 - c) kT/2 [(R + x)² + S],    x² = c K / ((1 - c) kT/2),    c = exp(-dt/τ)

    R -> first, of the normal distribution;  S -> others, of that of χ² with n_dof - 1. The factor
    is sqrt(K'/K) with the sign of R + x: the appendix of Bussi et al. 2007, completed to a square.
    """
    kept = math.exp(-duration / thermostat.relaxation)
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
