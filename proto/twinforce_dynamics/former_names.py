"""Refusal of former names of values, which told no unit."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type[Any])


def refuse_former(present: Mapping[str, str]) -> Callable[[_Class], _Class]:
    """Return a decorator of dataclasses with keywords only, which refuses former names of values.

    They are refused on construction, where the signature stays that of the dataclass. Pickles hold
    the values by name; those that hold them by position, in former units, are refused as well.

    Args:
        present: The name in place of each former one, its meaning and how to convert it.
    """

    def decorated(cls: _Class) -> _Class:
        make, names = cls.__init__, [each.name for each in fields(cls)]

        @wraps(make)
        def init(self: object, *args: object, **values: object) -> None:
            if args:
                expected = f"values by name ({', '.join(names)})"
                raise TypeError(f"{cls.__name__}: expected {expected}, got {len(args)} without")
            for name, instead in present.items():
                if name in values:
                    raise TypeError(f"{name}: expected {instead}, got {name}={values[name]!r}")
            make(self, **values)

        def get_state(self: object) -> dict[str, object]:
            return {name: getattr(self, name) for name in names}

        def set_state(self: object, state: object) -> None:
            if not isinstance(state, dict):
                raise TypeError(
                    f"{cls.__name__}: expected a pickle with names of values, got one of an "
                    "earlier version, in other units; create it again with "
                    + "; ".join(present.values())
                )
            init(self, **state)

        methods = {"__init__": init, "__getstate__": get_state, "__setstate__": set_state}
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    return decorated
