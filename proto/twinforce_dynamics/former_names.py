"""Refusal of former names of arguments, which told no unit."""

from collections.abc import Mapping


def refuse_former(given: Mapping[str, object], present: Mapping[str, str]) -> None:
    """Check that no argument has a former name.

    Args:
        given: Arguments by name.
        present: The name in place of each former one, what it is and how to convert it.

    Raises:
        TypeError: There is one; the message says its present name and unit.
    """
    for name, instead in present.items():
        if name in given:
            raise TypeError(f"{name}: expected {instead}, got {name}={given[name]!r}")
