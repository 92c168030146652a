"""Copies of atoms with the results of predictions, for many structures at once."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from twinforce._systems import as_systems, chunked
from twinforce._weights import KeptWeights
from twinforce.ase.errors import as_calculator_errors
from twinforce.ase.results import Results
from twinforce.ase.saved import save
from twinforce_proto import Prediction, ServiceError, System


def labeled(atoms: Atoms, prediction: Prediction) -> Atoms:
    """Return a copy of atoms with a calculator that holds the results of a prediction.

    `forces` and `stress` of the calculator are of one kind, the conservative one if it was
    predicted. All else is in the arrays and the info of the copy; see `twinforce.ase.saved`.
    """
    copied = atoms.copy()
    save(copied, prediction)
    is_conservative = prediction.conservative_forces is not None or (
        prediction.direct_forces is None and prediction.conservative_stress is not None
    )
    results = Results(prediction, "conservative" if is_conservative else "direct")
    copied.calc = SinglePointCalculator(copied, **results)
    copied.calc.name = "twinforce"
    return copied


class Labeling:
    """The labels of many structures, which are requested in groups.

    Args:
        all_atoms: Structures to label.

    Attributes:
        labeled: Copies with results, in the same order, of those that were predicted so far.

    Raises:
        TypeError: Something is not the atoms of ASE.
        InvalidSystemError: Some atoms are malformed; the error holds their index.
    """

    def __init__(self, all_atoms: Iterable[Atoms]) -> None:
        if isinstance(all_atoms, Atoms):
            raise TypeError("all_atoms: expected a list of Atoms, got Atoms; use [atoms]")
        self._all_atoms = list(all_atoms)
        for index, atoms in enumerate(self._all_atoms):
            if not isinstance(atoms, Atoms):
                kind = type(atoms).__name__
                raise TypeError(f"all_atoms[{index}]: expected Atoms of ASE, got {kind}")
        self.labeled: list[Atoms] = []
        self._weights = KeptWeights("which the first structures have", "call this again")

    def requests(self) -> Iterator[list[System]]:
        """Yield the systems of each request."""
        with as_calculator_errors():
            systems = as_systems(self._all_atoms)
        return chunked(systems)

    @contextmanager
    def indexing(self) -> Generator[None, None, None]:
        """Name the structure, among all of them, that an error of the current request is about."""
        with as_calculator_errors():
            try:
                yield
            except ServiceError as error:
                if error.system_index is None:
                    raise
                raise error.at(len(self.labeled) + error.system_index) from error

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Add the predictions of the current request.

        Raises:
            ModelChangedError: They are from other weights than the first ones.
        """
        for prediction in predictions:
            self._weights.check(prediction.provenance, allow_others=False)
            self.labeled.append(labeled(self._all_atoms[len(self.labeled)], prediction))
