"""The parameters of the simulation: some are measured, others are assumed."""

from dataclasses import dataclass

import numpy as np

from bench.runner.record import RESULTS, read


@dataclass(frozen=True)
class Parameters:
    """The times of a replica and of its clients.

    Attributes:
        fixed_s: Time of a batch without atoms, in s.
        per_atom_s: Time of each atom of a batch, in s.
        per_step_s: Time that the service process spends on each step, in s.
        client_s: Time between a reply and the next step of a walker, network included, in s.
        max_batch_atoms: Largest batch, in atoms.
        handshake_s: Time of the service process for a new connection with TLS and a key, in s.
        median_atoms: Median size of a system.
        spread_atoms: Standard deviation of the logarithm of the size.
        median_run_s: Median duration of a walker, in s.
        spread_run: Standard deviation of the logarithm of the duration.
    """

    fixed_s: float
    per_atom_s: float
    per_step_s: float
    client_s: float = 5e-3
    max_batch_atoms: int = 20_000
    handshake_s: float = 3e-3
    median_atoms: float = 192.0
    spread_atoms: float = 0.8
    median_run_s: float = 1800.0
    spread_run: float = 1.0

    @property
    def mean_run_s(self) -> float:
        """Mean duration of a walker, in s."""
        return self.median_run_s * float(np.exp(self.spread_run**2 / 2.0))

    def atoms(self, random: np.random.Generator, n: int) -> np.ndarray:
        """Return the sizes of systems, in atoms."""
        found = self.median_atoms * np.exp(self.spread_atoms * random.standard_normal(n))
        return np.maximum(found, 8.0)

    def durations(self, random: np.random.Generator, n: int) -> np.ndarray:
        """Return how long walkers last, in s."""
        return self.median_run_s * np.exp(self.spread_run * random.standard_normal(n))

    def step_s(self, n_walkers: np.ndarray, n_atoms: np.ndarray) -> np.ndarray:
        """Return the time of a step of each walker on a replica, in s.

        All walkers of a replica wait for one batch, which is limited by the device or by the
        service process: T = client + step + max(fixed + per_atom · atoms, step · walkers).
        """
        device = self.fixed_s + self.per_atom_s * n_atoms
        return self.client_s + self.per_step_s + np.maximum(device, self.per_step_s * n_walkers)


def measured() -> dict[str, Parameters]:
    """Return the parameters of two models on an H100, as `make bench` measured them.

    `water` is so fast that the service process is the limit; PET is limited by the device.
    """
    content = read(RESULTS, "gpu")
    n_atoms = content["n_atoms"]
    rows = content["us_per_atom_and_step"]["conservative"]
    sizes = np.array([int(n) * n_atoms for n in rows], float)
    seconds = 1e-6 * sizes * np.array([row["median"] for row in rows.values()])
    # Relative errors count, so that small batches do.
    slope, offset = np.polyfit(sizes, seconds, 1, w=1.0 / seconds)
    per_step = 1.0 / content["served"]["water"]["evaluations/s"]["median"]
    n_walkers, found = content["n_walkers"], content["milliseconds"]
    one, every = (1e-3 * found[name]["median"] for name in ("one walker", "all walkers"))
    pet_slope = (every - one) / ((n_walkers - 1) * n_atoms)
    pet = Parameters(one - pet_slope * n_atoms, pet_slope, per_step)
    return {"water": Parameters(float(offset), float(slope), per_step), "PET": pet}
