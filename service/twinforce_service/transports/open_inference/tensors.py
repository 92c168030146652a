"""The tensors of the protocol: their names, datatypes and shapes, and their elements as arrays."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import InvalidRequestError
from twinforce_proto.errors import quoted
from twinforce_service.calls.bounds import CallLimits

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The datatypes that are read and written, as the raw bytes of a tensor hold them."""

_NAMES = {(each.kind, each.itemsize): name for name, each in DTYPES.items()}
# Types that the elements of a list may have, by the kind of the datatype.
_TYPES: Mapping[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "f": frozenset({int, float}),
}
_ANY_LENGTH = -1


@dataclass(frozen=True, slots=True)
class TensorKind:
    """The rules for a tensor of this name.

    Attributes:
        name: Name of the tensor.
        datatypes: Names of the datatypes that it may have, the declared one first.
        shape: Length along each axis; -1 stands for any.
        is_optional: True if requests may leave it out.
    """

    name: str
    datatypes: tuple[str, ...]
    shape: tuple[int, ...]
    is_optional: bool = False


_FLOATS, _INTEGERS = ("FP64", "FP32"), ("INT32", "INT64")

INPUTS: Mapping[str, TensorKind] = {
    kind.name: kind
    for kind in (
        TensorKind("atomic_numbers", _INTEGERS, (-1,)),
        TensorKind("positions", _FLOATS, (-1, 3)),
        TensorKind("n_atoms", _INTEGERS, (-1,), is_optional=True),
        TensorKind("cell", _FLOATS, (-1, 3, 3), is_optional=True),
        TensorKind("pbc", ("BOOL",), (-1, 3), is_optional=True),
        TensorKind("charge", (*_FLOATS, *_INTEGERS), (-1,), is_optional=True),
        TensorKind("spin_multiplicity", _INTEGERS, (-1,), is_optional=True),
    )
}
"""The tensors of a request: those per atom have the atoms of all systems, one after another."""

PER_ATOM = frozenset({"atomic_numbers", "positions"})
"""Those with one row per atom; the others have one row per system."""

OUTPUT_KINDS: Mapping[str, TensorKind] = {
    kind.name: kind
    for kind in (
        TensorKind("energy", _FLOATS, (-1,)),
        TensorKind("atom_energies", _FLOATS, (-1,)),
        TensorKind("conservative_forces", _FLOATS, (-1, 3)),
        TensorKind("direct_forces", _FLOATS, (-1, 3)),
        TensorKind("conservative_stress", _FLOATS, (-1, 3, 3)),
        TensorKind("direct_stress", _FLOATS, (-1, 3, 3)),
    )
}
"""The tensors of a reply, joined in the same way."""

# Longest axis of a tensor: more elements than any message holds.
_MAX_LENGTH = 2**40
# Axes of a shape that are read: more than any tensor has, so a longer shape is refused as well.
_MAX_AXES = 10


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array.

    Attributes:
        name: Name of the tensor.
        array: Its elements, of one of the types in `DTYPES`.
    """

    name: str
    array: NDArray[Any]

    @property
    def datatype(self) -> str:
        """Name of the datatype of the elements."""
        return _NAMES[self.array.dtype.kind, self.array.dtype.itemsize]

    def to_bytes(self) -> bytes:
        """Return the elements as raw little-endian bytes, row-major."""
        return self.array.astype(DTYPES[self.datatype], copy=False).tobytes()


@dataclass(frozen=True, slots=True)
class TensorHead:
    """The name, datatype and shape that a request gives to a tensor, checked but for its elements.

    Args:
        name: Name of the tensor.
        datatype: Name of its datatype.
        shape: Length along each axis.

    Raises:
        InvalidRequestError: There is no such tensor, or its datatype or shape is another one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, datatype: str, shape: Sequence[int]) -> Self:
        """Return the head of a tensor in a message, whose shape may be too long to become objects.

        Args:
            name: Name of the tensor.
            datatype: Name of its datatype.
            shape: Length along each axis; only the first axes are read.

        Raises:
            InvalidRequestError: There is no such tensor, or its datatype or shape is another one.
        """
        return cls(name, datatype, tuple(shape[:_MAX_AXES]))

    def __post_init__(self) -> None:
        if (kind := INPUTS.get(self.name)) is None:
            raise InvalidRequestError.expected("inputs", ", ".join(INPUTS), quoted(self.name))
        if self.datatype not in kind.datatypes:
            expected = f"datatype {' or '.join(kind.datatypes)}"
            raise InvalidRequestError.expected(self.name, expected, quoted(self.datatype))
        if not any(_fits(self.shape, shape) for shape in _shapes(kind)) or any(
            not 0 <= length <= _MAX_LENGTH for length in self.shape
        ):
            expected = " or ".join(f"shape {list(shape)}" for shape in _shapes(kind))
            got = f"shape {list(self.shape)}"
            raise InvalidRequestError.expected(self.name, expected, got)

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Number of bytes of all elements."""
        return self.n_elements * DTYPES[self.datatype].itemsize

    def check(self, limits: CallLimits) -> None:
        """Refuse a tensor of too many atoms or systems, before its elements become objects.

        Raises:
            InvalidRequestError: There are too many.
        """
        if len(self.shape) < len(INPUTS[self.name].shape):  # of one system
            return
        if self.name in PER_ATOM:
            limits.check_atoms(self.shape[0])
        else:
            limits.check_systems(self.shape[0])

    def of_bytes(self, data: bytes) -> Tensor:
        """Return the tensor whose elements are these raw bytes.

        Raises:
            InvalidRequestError: The bytes are too few, too many, or no bools.
        """
        if len(data) != self.n_bytes:
            expected = f"{self.n_bytes} bytes of {self.datatype} for shape {list(self.shape)}"
            raise InvalidRequestError.expected(self.name, expected, f"{len(data)} bytes")
        if self.datatype == "BOOL" and (others := data.strip(b"\0\1")):
            raise InvalidRequestError.expected(self.name, "bytes 0 or 1", others[0])
        return Tensor(self.name, np.frombuffer(data, DTYPES[self.datatype]).reshape(self.shape))

    def of_values(self, values: Sequence[Any]) -> Tensor:
        """Return the tensor of these elements, which may be nested like its axes.

        Raises:
            InvalidRequestError: The elements are too few, too many, or of another type.
        """
        dtype = DTYPES[self.datatype]
        if len(values) > self.n_elements:  # as there is at least one in each
            self._refuse_number(len(values))
        # Numpy would pad texts to the longest one, so it gets only what is known to be numbers.
        elements = self._flat(values)
        if len(elements) != self.n_elements:
            self._refuse_number(len(elements))
        if dtype.kind == "i" and elements:
            self._check_range(elements, np.iinfo(dtype))
        try:
            with np.errstate(over="ignore"):  # infinity is refused where a value has to be finite
                array = np.array(elements, np.float64 if dtype.kind == "f" else dtype)
                array = array.astype(dtype, copy=False)
        except OverflowError as error:
            raise self._other_values("a whole number beyond the range of FP64") from error
        return Tensor(self.name, array.reshape(self.shape))

    def _flat(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the elements in nested lists, whose types are those of the datatype."""
        while (types := set(map(type, values))) == {list}:
            if len(set(map(len, values))) > 1:
                raise self._other_values("ragged lists")
            values = list(chain.from_iterable(values))
        if list in types:
            raise self._other_values("ragged lists")
        if not types <= _TYPES[DTYPES[self.datatype].kind]:
            raise self._other_values("values of another type")
        return values

    def _other_values(self, got: object) -> InvalidRequestError:
        return InvalidRequestError.expected(self.name, f"{self.datatype} values", got)

    def _refuse_number(self, n_values: int) -> NoReturn:
        expected = f"{self.n_elements} values for shape {list(self.shape)}"
        raise InvalidRequestError.expected(self.name, expected, n_values)

    def _check_range(self, elements: Sequence[int], limits: np.iinfo[Any]) -> None:
        lowest, highest = min(elements), max(elements)
        if lowest < limits.min or highest > limits.max:
            raise self._other_values(lowest if lowest < limits.min else highest)


def check_names(names: Iterable[str], field: str) -> None:
    """Refuse a list of tensors that has one of them twice.

    Raises:
        InvalidRequestError: A name comes twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequestError.expected(field, "each tensor once", f"{quoted(name)} twice")
        seen.add(name)


def _shapes(kind: TensorKind) -> list[tuple[int, ...]]:
    """Return the shapes that a tensor may have; one cell or pbc needs no axis of systems."""
    is_matrix = kind.name in ("cell", "pbc")
    return [kind.shape, kind.shape[1:]] if is_matrix else [kind.shape]


def _fits(shape: Sequence[int], pattern: Sequence[int]) -> bool:
    return len(shape) == len(pattern) and all(
        expected in (_ANY_LENGTH, length) for length, expected in zip(shape, pattern, strict=True)
    )
