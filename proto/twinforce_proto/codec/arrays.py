"""Conversion of arrays to and from protobuf messages: raw little-endian bytes, row-major.

A message carries the dtype but not the shape, which follows from the field and the number of atoms.
A decoded float64 array is a view into the message, not a copy.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.errors import InvalidRequestError, InvalidSystemError, ServiceError
from twinforce_proto.v1 import inference_pb2 as pb

INT32 = np.dtype("<i4")
_FLOAT64 = np.dtype("<f8")
_NATIVE = np.dtype(np.float64)
# Peers that know no other number for float64 understand its absence.
_DTYPES = {"float64": pb.D_TYPE_UNSPECIFIED, "float32": pb.FLOAT32}
_NUMPY_DTYPES: dict[int, np.dtype[Any]] = {
    pb.D_TYPE_UNSPECIFIED: _FLOAT64,
    pb.FLOAT32: np.dtype("<f4"),
    pb.FLOAT64: _FLOAT64,
}
_EXPECTED = "FLOAT64 (0 or 2) or FLOAT32 (1)"


def array_to_proto(array: NDArray[Any], dtype: str = "float64") -> pb.Array:
    """Encode an array as "float64" or "float32"."""
    message = pb.Array()
    write_array(message, array, dtype)
    return message


def write_array(message: pb.Array, array: NDArray[Any], dtype: str) -> None:
    """Encode an array in place, as "float64" or "float32"."""
    number = dtype_to_proto(dtype)
    message.dtype = number
    message.data = bytes_of(array, _NUMPY_DTYPES[number])


def bytes_of(array: NDArray[Any], dtype: np.dtype[Any] = _FLOAT64) -> bytes:
    """Return the bytes of an array in this dtype, row-major."""
    return (array if array.dtype == dtype else array.astype(dtype)).tobytes()


def array_from_proto(
    message: pb.Array,
    field: str,
    shape: tuple[int, ...],
    error: type[ServiceError] = InvalidSystemError,
) -> NDArray[np.float64]:
    """Decode an array.

    Args:
        message: Encoded array.
        field: Name of the field, for error messages.
        shape: Expected shape, in which one -1 stands for any length.
        error: Class of the error to raise.

    Raises:
        ServiceError: The dtype is unknown or the bytes do not fit the shape; of class `error`.
    """
    dtype = _NUMPY_DTYPES.get(message.dtype)
    if dtype is None:
        raise error.expected(field, f"dtype {_EXPECTED}", message.dtype)
    try:
        array = np.frombuffer(message.data, dtype).reshape(shape)
    except ValueError:
        raise error.expected(
            field, _size_text(shape, dtype), f"{len(message.data)} bytes"
        ) from None
    return array if dtype is _NATIVE else array.astype(np.float64)


def int32_from_bytes(
    data: bytes, field: str, error: type[ServiceError] = InvalidSystemError
) -> NDArray[np.int32]:
    """Decode a one-dimensional int32 array.

    Args:
        data: Little-endian bytes.
        field: Name of the field, for error messages.
        error: Class of the error to raise.

    Raises:
        ServiceError: The number of bytes is not a multiple of 4; of class `error`.
    """
    if len(data) % INT32.itemsize:
        raise error.expected(field, "a multiple of 4 bytes of int32", f"{len(data)} bytes")
    return np.frombuffer(data, dtype=INT32)


def dtype_to_proto(dtype: str) -> pb.DType:
    """Encode the name of a dtype, "float64" or "float32"."""
    if dtype not in _DTYPES:
        raise InvalidRequestError.expected("reply_dtype", " or ".join(_DTYPES), repr(dtype))
    return _DTYPES[dtype]


def dtype_from_proto(number: int) -> str:
    """Decode a dtype to its name, "float64" or "float32"."""
    if (dtype := _NUMPY_DTYPES.get(number)) is None:
        raise InvalidRequestError.expected("reply_dtype", _EXPECTED, number)
    return dtype.name


def _size_text(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Return how many bytes an array takes, or one row of it if their number is not fixed."""
    n_bytes = f"{abs(math.prod(shape)) * dtype.itemsize} bytes"
    size = f"a multiple of {n_bytes}" if -1 in shape else n_bytes
    return f"{size} of {dtype.name} for shape {_shape_text(shape)}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return str(["n_atoms" if length < 0 else length for length in shape]).replace("'", "")
