"""A round of sampling: walkers that move together, while the teacher labels each outer step."""

import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from twinforce.ase import ForceDisagreementWarning
from twinforce.assess.budget import Deadline
from twinforce.assess.progress import Progress
from twinforce.distill.joined import JoinedClient
from twinforce.distill.sampling.labels import Labels, read_labels, write_labels
from twinforce.distill.sampling.walkers import LabeledWalker, Walk
from twinforce.distill.settings import DistillSettings

_MOST_WALKERS = 12
# The walker that tests takes one step for this many of the others.
_TEST_INTERVAL = 4
_SAVE_INTERVAL_S = 15.0
# Training needs some labels, even if the time is over.
_FEWEST_SWEEPS = 16
# Labels are sampled beyond those that training needs, so that there is a choice.
_CHOICE = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class LabeledTrajectory:
    """The labels of one walker in a round.

    Attributes:
        walk: Conditions of the walker.
        labels: Its labels.
        note: Reason why it ended early, or "".
        is_fallback: True if the student could not drive it, so that the teacher moved it alone.
    """

    walk: Walk
    labels: Labels
    note: str
    is_fallback: bool


def walks_of(n_systems: int, settings: DistillSettings, round_number: int) -> list[Walk]:
    """Return the walkers of a round: those to train on, and one to test on.

    All combinations of system, scale and temperature are sampled, at most twelve at a time; each
    round draws others if there are more.
    """
    combinations = list(
        itertools.product(range(n_systems), settings.scales, settings.sampled_temperatures_k)
    )
    if len(combinations) > _MOST_WALKERS:
        rng = np.random.default_rng([settings.seed, round_number])
        drawn = rng.choice(len(combinations), _MOST_WALKERS, replace=False)
        combinations = [combinations[index] for index in sorted(drawn)]
    temperatures = settings.temperatures_k
    test = Walk(
        round_number % n_systems, 1.0, temperatures[round_number % len(temperatures)], is_test=True
    )
    return [*(Walk(*each) for each in combinations), test]


def initial_atoms(walk: Walk, systems: Sequence[Atoms]) -> Atoms:
    """Return the atoms that a walker starts from, without velocities."""
    atoms: Atoms = systems[walk.system].copy()
    atoms.set_array("momenta", None)
    if atoms.pbc.any() and walk.scale != 1.0:
        factors = np.where(atoms.pbc, walk.scale, 1.0)
        atoms.set_cell(atoms.cell.array * factors[:, None], scale_atoms=True)
    return atoms


class SamplingRound:
    """The sampling of one round, which continues where it was interrupted.

    Args:
        directory: Folder of the round.
        systems: Systems to start from.
        settings: Settings of the distillation.
        round_number: Number of the round.
        earlier: File with the walkers of earlier rounds, which go on; it need not exist.
    """

    def __init__(
        self,
        directory: Path,
        systems: Sequence[Atoms],
        settings: DistillSettings,
        round_number: int,
        earlier: Path | None,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._inner_steps = settings.inner_steps(round_number)
        self._files: list[dict[str, Any]] = []
        walks = walks_of(len(systems), settings, round_number)
        starts = _starts_of(earlier, walks)
        paths = sorted(directory.glob("labels-*.npz"))
        self._n_files = len(paths)
        self._walkers = []
        for index, walk in enumerate(walks):
            atoms = initial_atoms(walk, systems)
            if (start := starts.get(walk.key)) is not None:
                atoms.positions[:] = start["positions"]
                atoms.set_momenta(start["momenta"], apply_constraint=False)
            rng = np.random.default_rng([settings.seed, round_number, index, self._n_files])
            self._walkers.append(
                LabeledWalker(
                    walk,
                    atoms,
                    time_step_fs=settings.time_step_fs,
                    inner_steps=self._inner_steps,
                    rng=rng,
                )
            )
        self._before = {walker.walk.key: list[Labels]() for walker in self._walkers}
        for path in paths:
            self._read(path)

    def run(
        self, client: JoinedClient, n_labels: int, deadline: Deadline, progress: Progress
    ) -> None:
        """Sample until there are enough labels or the time is over; save what was sampled.

        Args:
            client: Client of the teacher and, if the round has one, of the student that drives.
            n_labels: Number of labels that training needs.
            deadline: Time at which to stop.
            progress: Where to show progress.
        """
        wanted = round(_CHOICE * n_labels)
        title = f"sampling, M = {self._inner_steps}" if self._inner_steps > 1 else "sampling"
        moving = [walker for walker in self._walkers if not walker.note]
        saved_at = time.monotonic()
        try:
            with (
                ThreadPoolExecutor(max(len(moving), 1)) as pool,
                progress.bar(title, wanted, self.n_labels, "label") as bar,
                _quiet(),
            ):
                list(pool.map(lambda walker: walker.begin(client), moving))
                for sweep in itertools.count():
                    moving = [walker for walker in self._walkers if not walker.note]
                    is_late = deadline.is_over and self._n_sweeps >= _FEWEST_SWEEPS
                    if is_late or self.n_labels >= wanted or not _any_trains(moving):
                        break
                    list(pool.map(LabeledWalker.advance, _due(moving, sweep)))
                    bar.update(self.n_labels - bar.n)
                    if time.monotonic() - saved_at > _SAVE_INTERVAL_S:
                        self._save()
                        saved_at = time.monotonic()
        finally:
            for walker in self._walkers:
                walker.end()
            self._save()

    @property
    def n_labels(self) -> int:
        """Number of labels for training."""
        return sum(each.n_labels for each in self._walkers if not each.walk.is_test)

    @property
    def _n_sweeps(self) -> int:
        return max(each.n_labels for each in self._walkers if not each.walk.is_test)

    def trajectories(self) -> list[LabeledTrajectory]:
        """Return all that was sampled."""
        return [
            LabeledTrajectory(
                walker.walk,
                Labels.joined([Labels.empty(len(walker.atoms)), *self._before[walker.walk.key]]),
                walker.note,
                is_fallback=int(walker.state()["inner_steps"]) != self._inner_steps,
            )
            for walker in self._walkers
        ]

    def atoms_of(self, walk: Walk) -> Atoms:
        """Return the atoms of a walker as they are now."""
        walker = next(each for each in self._walkers if each.walk == walk)
        atoms = walker.atoms.copy()
        atoms.calc = None
        return atoms

    def save_walkers(self, path: Path, earlier: Path | None) -> None:
        """Write the state of all walkers, those of earlier rounds too, so that they can go on."""
        content, _ = read_labels(earlier) if earlier and earlier.exists() else ({}, {})
        for walker in self._walkers:
            if not walker.note:
                content[f"{walker.walk.key}/positions"] = walker.atoms.positions
                content[f"{walker.walk.key}/momenta"] = walker.atoms.get_momenta()
        write_labels(path, content, {})

    def discard(self) -> None:
        """Delete the files, when the labels have been written elsewhere."""
        for path in self._directory.glob("labels-*.npz"):
            path.unlink()

    def _save(self) -> None:
        """Append the new labels and states as a file."""
        content: dict[str, Any] = {}
        facts = {}
        n_new = 0
        for walker in self._walkers:
            key, state = walker.walk.key, walker.state()
            labels = walker.take_labels()
            n_new += len(labels)
            self._before[key].append(labels)
            content |= {f"{key}/{name}": array for name, array in labels.arrays().items()}
            content |= {f"{key}/now/{name}": state.pop(name) for name in ("positions", "momenta")}
            facts[key] = state
        if n_new:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"labels-{self._n_files:04d}.npz"
            write_labels(path, content, facts)
            self._n_files += 1

    def _read(self, path: Path) -> None:
        content, facts = read_labels(path)
        for walker in self._walkers:
            key = walker.walk.key
            now = {name: content[f"{key}/now/{name}"] for name in ("positions", "momenta")}
            walker.restore(facts[key] | now)
            arrays = {each.name: content[f"{key}/{each.name}"] for each in fields(Labels)}
            self._before[key].append(Labels(**arrays))


def _due(walkers: Sequence[LabeledWalker], sweep: int) -> list[LabeledWalker]:
    """Return the walkers that take a step in a sweep."""
    is_turn_of_test = sweep % _TEST_INTERVAL == 0
    return [walker for walker in walkers if is_turn_of_test or not walker.walk.is_test]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning that both forces differ, which is what the labels are for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForceDisagreementWarning)
        yield


def _any_trains(walkers: Sequence[LabeledWalker]) -> bool:
    return any(not walker.walk.is_test for walker in walkers)


def _starts_of(earlier: Path | None, walks: Sequence[Walk]) -> dict[str, dict[str, Any]]:
    """Return positions and momenta of those walkers that moved in an earlier round."""
    if earlier is None or not earlier.exists():
        return {}
    content, _ = read_labels(earlier)
    return {
        walk.key: {name: content[f"{walk.key}/{name}"] for name in ("positions", "momenta")}
        for walk in walks
        if f"{walk.key}/positions" in content
    }
