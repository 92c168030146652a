"""Tests that errors of one structure are errors of ASE's calculators, and others are not."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import (
    CalculationFailed,
    CalculatorError,
    CalculatorSetupError,
)

import twinforce
from tests.clients.serving import ARGON, serve
from tests.potentials import Soft, loaded
from tests.systems import molecule
from twinforce.ase import (
    CalculationError,
    FatalCalculationError,
    InvalidAtomsError,
    MultipleTimeStepping,
    NonFiniteCalculationError,
    TooManyAtomsError,
    TwinForceCalculator,
    UnsupportedAtomsError,
)
from twinforce.ase.errors import as_calculator_errors


class Failing(Soft):
    """A potential that fails on systems with an atom beyond 100 Å."""

    def forward_heads(self, batch, *, direct):
        if (batch.positions.abs() > 100.0).any():
            raise RuntimeError("out of the box")
        return super().forward_heads(batch, direct=direct)


@pytest.fixture(scope="module")
def server():
    with serve({"soft": loaded(Failing())}, max_atoms_per_system=50) as server:
        yield server


@pytest.fixture
def calculator(server, transport):
    url = server.grpc_url if transport == "grpc" else server.rest_url
    with TwinForceCalculator(url) as calculator:
        yield calculator


def argon(n_atoms=4):
    return Atoms([ARGON] * n_atoms, molecule(n_atoms).positions)


def spoiled(kind):
    atoms = argon(60 if kind is TooManyAtomsError else 4)
    if kind is InvalidAtomsError:
        atoms.positions[0, 0] = np.nan
    elif kind is UnsupportedAtomsError:
        atoms.numbers[1] = 92
    elif kind is CalculationError:
        atoms.positions[0, 0] = 200.0
    return atoms


@pytest.mark.parametrize(
    ("kind", "of_service", "of_ase"),
    [
        (InvalidAtomsError, twinforce.InvalidSystemError, CalculatorSetupError),
        (UnsupportedAtomsError, twinforce.UnsupportedElementError, CalculatorSetupError),
        (TooManyAtomsError, twinforce.SystemTooLargeError, CalculatorSetupError),
        (CalculationError, twinforce.PredictionError, CalculationFailed),
    ],
)
def test_an_error_of_one_structure_is_one_of_ase(calculator, kind, of_service, of_ase):
    atoms = spoiled(kind)
    atoms.calc = calculator
    with pytest.raises(of_ase) as caught:
        atoms.get_forces()
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, CalculatorError)
    assert isinstance(error, of_service)
    assert isinstance(error.__cause__, of_service)
    assert not isinstance(error.__cause__, CalculatorError)
    assert str(error) == str(error.__cause__)
    assert error.field == error.__cause__.field
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_a_search_goes_on_after_a_structure_that_fails(calculator):
    energies = []
    for kind in (None, CalculationError, UnsupportedAtomsError, None):
        atoms = spoiled(kind)
        atoms.calc = calculator
        try:
            energies.append(atoms.get_potential_energy())
        except CalculatorError:
            energies.append(None)
    assert [energy is None for energy in energies] == [False, True, True, False]
    assert energies[0] == energies[3]


def test_a_step_that_fails_raises_an_error_of_ase(calculator):
    atoms = argon()
    atoms.calc = calculator
    dynamics = MultipleTimeStepping(atoms, 0.1, inner_steps=2)
    dynamics.run(1)
    atoms.positions[0, 0] = 200.0
    with pytest.raises(CalculationError):
        dynamics.run(1)
    with pytest.raises(CalculationError):
        list(dynamics.irun_on_server(1))


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (twinforce.NonFinitePredictionError("nan"), NonFiniteCalculationError),
        (
            twinforce.FatalSystemError("no", system_index=3, field="cell"),
            FatalCalculationError,
        ),
    ],
)
def test_special_errors_stay_special(raised, kind):
    with pytest.raises(kind) as caught, as_calculator_errors():
        raise raised
    assert isinstance(caught.value, type(raised))
    assert isinstance(caught.value, CalculationFailed)
    assert (caught.value.system_index, caught.value.field) == (raised.system_index, raised.field)
    with pytest.raises(kind) as again, as_calculator_errors():
        raise caught.value
    assert again.value is caught.value


@pytest.mark.parametrize(
    "kind", [twinforce.UnavailableError, twinforce.OverloadedError, twinforce.UnknownModelError]
)
def test_errors_of_the_service_are_not_errors_of_a_structure(kind):
    with pytest.raises(kind) as caught, as_calculator_errors():
        raise kind("no")
    assert not isinstance(caught.value, CalculatorError)


def test_every_error_about_one_structure_has_a_counterpart():
    """The errors of the service of which there is none are those that any structure would get."""
    without = set()
    for name in dir(twinforce):
        kind = getattr(twinforce, name)
        if isinstance(kind, type) and issubclass(kind, twinforce.ServiceError):
            with pytest.raises(kind) as caught, as_calculator_errors():
                raise kind("no")
            if not isinstance(caught.value, CalculatorError):
                without.add(name)
    assert without == {
        "DeadlineExceededError", "InvalidRequestError", "ModelChangedError", "ModelLoadError",
        "OverloadedError", "PermissionDeniedError", "RequestCancelledError", "ServiceError",
        "UnauthenticatedError", "UnavailableError", "UnknownModelError", "UnsupportedOutputError",
    }  # fmt: skip
