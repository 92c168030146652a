"""The names of the quantities that a request can ask for."""

from collections.abc import Iterable

from twinforce_proto.errors import InvalidRequestError, quoted

OUTPUTS = (
    "energy",
    "atom_energies",
    "conservative_forces",
    "direct_forces",
    "conservative_stress",
    "direct_stress",
)

# Derivatives of the energy, which need a backward pass.
AUTOGRAD_OUTPUTS = frozenset({"conservative_forces", "conservative_stress"})

# Outputs per volume, which are defined only for systems with a cell, periodic or not.
STRESSES = frozenset({"conservative_stress", "direct_stress"})

# Outputs of the direct heads of a model.
DIRECT_OUTPUTS = frozenset({"direct_forces", "direct_stress"})

# Outputs that have a Jacobian: the two kinds of forces.
FORCES = ("direct_forces", "conservative_forces")

# Outputs of a request that names none.
DEFAULT_OUTPUTS = ("energy", "conservative_forces")

# "hybrid" stands for the energy and both kinds of forces, from one forward pass.
_SHORTHANDS = {"hybrid": frozenset({"energy", "conservative_forces", "direct_forces"})}

_CHOICES = (*OUTPUTS, *_SHORTHANDS)
_EXPECTED = "some of " + ", ".join(_CHOICES)


def parse_outputs(names: str | Iterable[str]) -> frozenset[str]:
    """Return the outputs with these names, with shorthands expanded.

    Raises:
        InvalidRequestError: A name is unknown, or there is none.
    """
    outputs: set[str] = set()
    for name in (names,) if isinstance(names, str) else names:
        if name not in _CHOICES:
            raise InvalidRequestError.expected("outputs", _EXPECTED, quoted(str(name)))
        outputs |= _SHORTHANDS.get(name, {name})
    if not outputs:
        raise InvalidRequestError.expected("outputs", _EXPECTED, "none")
    return frozenset(outputs)


def needs_autograd(outputs: Iterable[str]) -> bool:
    """Return True if any of these outputs needs a backward pass."""
    return not AUTOGRAD_OUTPUTS.isdisjoint(outputs)
