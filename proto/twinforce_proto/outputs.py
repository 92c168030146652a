"""The quantities a request can ask for."""

from collections.abc import Iterable

from twinforce_proto.errors import InvalidRequestError

OUTPUTS = (
    "energy",
    "atom_energies",
    "conservative_forces",
    "direct_forces",
    "conservative_stress",
    "direct_stress",
)

# Those that are derivatives of the energy and so need a backward pass.
AUTOGRAD_OUTPUTS = frozenset({"conservative_forces", "conservative_stress"})

# Those that only a system periodic in all three directions has.
STRESSES = frozenset({"conservative_stress", "direct_stress"})

# The two kinds of forces, as what has a Jacobian.
FORCES = ("direct_forces", "conservative_forces")

# What a request that names none asks for.
DEFAULT_OUTPUTS = ("energy", "conservative_forces")

# "hybrid" asks for the energy and both forces, made in one forward pass.
_SHORTHANDS = {"hybrid": frozenset({"energy", "conservative_forces", "direct_forces"})}

_CHOICES = (*OUTPUTS, *_SHORTHANDS)
_EXPECTED = "some of " + ", ".join(_CHOICES)


def parse_outputs(names: str | Iterable[str]) -> frozenset[str]:
    """Return the outputs these names ask for, shorthands expanded.

    Raises:
        InvalidRequestError: When a name is unknown, or there is none.
    """
    outputs: set[str] = set()
    for name in (names,) if isinstance(names, str) else names:
        if name not in _CHOICES:
            raise InvalidRequestError(
                f"outputs: expected {_EXPECTED}, got {name!r}", field="outputs"
            )
        outputs |= _SHORTHANDS.get(name, {name})
    if not outputs:
        raise InvalidRequestError(f"outputs: expected {_EXPECTED}, got none", field="outputs")
    return frozenset(outputs)


def needs_autograd(outputs: Iterable[str]) -> bool:
    """Return whether any of these outputs needs a backward pass."""
    return not AUTOGRAD_OUTPUTS.isdisjoint(outputs)
