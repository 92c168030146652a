"""Errors of the service that concern one structure, as errors of ASE's calculators too.

* InvalidAtomsError            InvalidSystemError        CalculatorSetupError
  - UnsupportedAtomsError      UnsupportedElementError   CalculatorSetupError
* TooManyAtomsError            SystemTooLargeError       CalculatorSetupError
* CalculationError             PredictionError           CalculationFailed
  - NonFiniteCalculationError  NonFinitePredictionError  CalculationFailed
  - FatalCalculationError      FatalSystemError          CalculationFailed

A search over many structures that skips those with a `CalculatorError` of ASE skips these. Errors
of the service as a whole, such as `UnavailableError`, are none.
"""

from collections.abc import Generator
from contextlib import contextmanager

from ase.calculators.calculator import CalculationFailed, CalculatorSetupError

from twinforce_proto import (
    FatalSystemError,
    InvalidSystemError,
    NonFinitePredictionError,
    PredictionError,
    ServiceError,
    SystemTooLargeError,
    UnsupportedElementError,
)


class InvalidAtomsError(InvalidSystemError, CalculatorSetupError):  # type: ignore[misc]
    """The atoms are malformed, for example not finite, or not for this model."""


class UnsupportedAtomsError(UnsupportedElementError, InvalidAtomsError):
    """The model does not know an element among the atoms."""


class TooManyAtomsError(SystemTooLargeError, CalculatorSetupError):  # type: ignore[misc]
    """The atoms alone exceed the limits of a batch."""


class CalculationError(PredictionError, CalculationFailed):  # type: ignore[misc]
    """The potential failed on these atoms."""


class NonFiniteCalculationError(NonFinitePredictionError, CalculationError):
    """The potential returned NaN or infinity for these atoms."""


class FatalCalculationError(FatalSystemError, CalculationError):
    """These atoms ended the engine each time that it evaluated them."""


# The most special first.
_OF_ASE: dict[type[ServiceError], type[ServiceError]] = {
    UnsupportedElementError: UnsupportedAtomsError,
    InvalidSystemError: InvalidAtomsError,
    SystemTooLargeError: TooManyAtomsError,
    NonFinitePredictionError: NonFiniteCalculationError,
    FatalSystemError: FatalCalculationError,
    PredictionError: CalculationError,
}


@contextmanager
def as_calculator_errors() -> Generator[None, None, None]:
    """Raise errors that concern one structure as errors of ASE's calculators too."""
    try:
        yield
    except ServiceError as error:
        kind = next((_OF_ASE[each] for each in _OF_ASE if isinstance(error, each)), None)
        if kind is None or isinstance(error, kind):
            raise
        raise kind(
            error.message,
            system_index=error.system_index,
            field=error.field,
            retry_after=error.retry_after,
        ) from error
