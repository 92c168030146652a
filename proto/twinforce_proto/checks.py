"""The rules of a valid system: each check returns the array to keep or raises an error.

The returned arrays are read-only. An array that already has the right type is not copied; the
check returns a view of it, so the caller's own array stays writable.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_proto.errors import InvalidSystemError

MAX_ATOMIC_NUMBER = 118
# In Å. A larger coordinate is a mistake.
MAX_LENGTH = 1e6
# In Å: shortest periodic lattice vector, and shortest side of the square or cube that has the area
# or volume that two or three of them span. If atoms are closer to their own images, the units are
# wrong.
MIN_PERIOD = 0.1
MAX_SPIN_MULTIPLICITY = 2**31 - 1
# Smallest area or volume that two or three lattice vectors may span when scaled to length 1: 1 at
# right angles, 0 if they are linearly dependent.
MIN_UNIT_VOLUME = 1e-6

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Number = TypeVar("_Number", int, float)


def atomic_numbers(values: ArrayLike) -> NDArray[np.int32]:
    """Return whole numbers from 1 to 118, shape [n_atoms], at least one."""
    field = "atomic_numbers"
    array = _numeric_array(field, values, "iuf", "whole numbers from 1 to 118, shape [n_atoms]")
    if array.ndim != 1:
        raise InvalidSystemError.expected(field, "shape [n_atoms]", f"shape {list(array.shape)}")
    if not len(array):
        raise InvalidSystemError.expected(field, "at least one atom", "none")
    is_whole = array.dtype.kind != "f" or bool((array == np.floor(array)).all())
    if not (is_whole and array.min() >= 1 and array.max() <= MAX_ATOMIC_NUMBER):
        wrong = ~((array >= 1) & (array <= MAX_ATOMIC_NUMBER) & (array == np.floor(array)))
        expected = "whole numbers from 1 to 118"
        raise InvalidSystemError.expected(field, expected, _first_wrong(array, wrong))
    return _read_only(array, np.int32)


def coordinates(
    field: str, values: ArrayLike, shape: tuple[int, ...], unit: str = "Å"
) -> NDArray[np.float64]:
    """Return finite numbers of this shape.

    Args:
        field: Name of the field, for error messages.
        values: Numbers within ±`MAX_LENGTH`.
        shape: Shape that the array must have.
        unit: Unit of the numbers, for error messages.
    """
    array = _numeric_array(field, values, "iuf", f"numbers of shape {list(shape)}")
    if array.shape != shape:
        raise InvalidSystemError.expected(
            field, f"shape {list(shape)}", f"shape {list(array.shape)}"
        )
    kept = _read_only(array, np.float64)
    # The sum of squares takes one pass; comparisons with NaN are false.
    if not np.vdot(kept, kept) <= MAX_LENGTH**2 and (wrong := ~(np.abs(kept) <= MAX_LENGTH)).any():
        expected = f"finite numbers within ±{MAX_LENGTH:.0f} {unit}"
        raise InvalidSystemError.expected(field, expected, _first_wrong(kept, wrong))
    return kept


def pbc(values: ArrayLike | None) -> NDArray[np.bool_]:
    """Return three bools; a single one applies to all directions, and None means open."""
    if values is None:
        return periodicity(False, False, False)
    expected = "three bools, or one"
    array = _numeric_array("pbc", values, "biu", expected)
    if array.shape not in ((), (3,)):
        raise InvalidSystemError.expected("pbc", expected, f"shape {list(array.shape)}")
    if array.dtype.kind != "b" and (wrong := (array != 0) & (array != 1)).any():
        raise InvalidSystemError.expected("pbc", expected, _first_wrong(array, wrong))
    return periodicity(*map(bool, array.tolist() if array.ndim else [array] * 3))


@lru_cache(maxsize=8)
def periodicity(a: bool, b: bool, c: bool) -> NDArray[np.bool_]:
    """Return the periodicity along the three lattice vectors, as an array that systems share."""
    return _read_only(np.array([a, b, c]), np.bool_)


def cell(values: ArrayLike | None, periodic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return lattice vectors as rows, in Å, that span the periodic directions.

    Args:
        values: Shape [3, 3]. None: no cell, which is returned as zeros.
        periodic: The checked `pbc` of the system.
    """
    field = "cell"
    kept = _NO_CELL if values is None else coordinates(field, values, (3, 3))
    directions = [direction for direction, is_periodic in enumerate(periodic) if is_periodic]
    if not directions:
        return kept
    rows = kept.tolist()
    vectors = [rows[direction] for direction in directions]
    lengths = [math.hypot(*vector) for vector in vectors]
    if not all(lengths):
        direction = directions[lengths.index(0.0)]
        expected = f"a vector along each periodic direction of pbc {periodic.tolist()}"
        got = "no cell" if values is None else f"zero along direction {direction}"
        raise InvalidSystemError.expected(field, expected, got)
    _check_span(vectors, lengths)
    return kept


def has_volume(cell: NDArray[np.float64]) -> bool:
    """Return True if lattice vectors, shape [3, 3], span a volume, periodic or not.

    It must be at least `MIN_PERIOD`³, and `MIN_UNIT_VOLUME` for vectors scaled to length 1.
    """
    vectors = cell.tolist()
    volume = _volume(vectors)
    lengths = [math.hypot(*vector) for vector in vectors]
    return volume >= MIN_PERIOD**3 and volume >= MIN_UNIT_VOLUME * math.prod(lengths)


def charge(value: float | None) -> float | None:
    """Return a finite number, in elementary charges, or None."""
    if value is None:
        return None
    return _scalar("charge", value, float, "a finite number", math.isfinite)


def spin_multiplicity(value: int | None) -> int | None:
    """Return a whole number, at least 1, or None."""
    if value is None:
        return None
    return _scalar(
        "spin_multiplicity",
        value,
        operator.index,
        f"a whole number from 1 to {MAX_SPIN_MULTIPLICITY}",
        lambda number: 1 <= number <= MAX_SPIN_MULTIPLICITY,
    )


def _scalar(
    field: str,
    value: Any,
    convert: Callable[[Any], _Number],
    expected: str,
    is_valid: Callable[[_Number], bool],
) -> _Number:
    try:
        number = None if isinstance(value, bool | str) else convert(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not is_valid(number):
        raise InvalidSystemError.expected(field, expected, repr(value))
    return number


def _numeric_array(field: str, values: ArrayLike, kinds: str, expected: str) -> NDArray[Any]:
    """Return the values as an array whose dtype is of one of these kinds, as numpy names them."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSystemError.expected(field, expected, "rows of different lengths") from error
    # The dtype of an empty list means nothing.
    if array.dtype.kind not in kinds and array.size:
        raise InvalidSystemError.expected(field, expected, f"{array.dtype} values")
    return array


def _read_only(array: NDArray[Any], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    kept = np.ascontiguousarray(array, dtype=dtype)
    if kept.flags.writeable:
        kept = kept.view()
        kept.flags.writeable = False
    return kept


def _volume(vectors: Sequence[Sequence[float]]) -> float:
    """Return the length, area or volume that one, two or three vectors span."""
    first, *others = vectors
    if not others:
        return math.hypot(*first)
    ax, ay, az = first
    bx, by, bz = others[0]
    normal = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    if len(others) == 1:
        return math.hypot(*normal)
    return abs(sum(x * y for x, y in zip(normal, others[1], strict=True)))


def _check_span(vectors: Sequence[Sequence[float]], lengths: Sequence[float]) -> None:
    if (shortest := min(lengths)) < MIN_PERIOD:
        expected = f"vectors of at least {MIN_PERIOD} Å along periodic directions"
        raise InvalidSystemError.expected("cell", expected, f"one of {shortest:.3g} Å")
    volume = _volume(vectors)
    if volume < MIN_UNIT_VOLUME * math.prod(lengths):
        expected = "linearly independent vectors along periodic directions"
        raise InvalidSystemError.expected("cell", expected, vectors)
    n_periodic = len(vectors)
    if volume < (smallest := MIN_PERIOD**n_periodic):
        unit = ("Å", "Å²", "Å³")[n_periodic - 1]
        expected = f"vectors that span at least {smallest:.3g} {unit} along periodic directions"
        raise InvalidSystemError.expected("cell", expected, f"{volume:.3g} {unit}")


def _first_wrong(array: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    """Return the first wrong number and its index, for an error message."""
    if not array.ndim:
        return str(array)
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{array[index]} at {list(index)}"


_NO_CELL: NDArray[np.float64] = _read_only(np.zeros((3, 3)), np.float64)
