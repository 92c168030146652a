"""Arrays to and from protobuf messages: raw little-endian bytes, row-major.

The message says the dtype; the field and the number of atoms say the shape. Decoding looks into
the message and copies nothing that is float64 already.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.errors import InvalidRequestError, InvalidSystemError, ServiceError
from twinforce_proto.v1 import inference_pb2 as pb

_FLOAT64 = np.dtype("<f8")
_DTYPES = {"float64": pb.FLOAT64, "float32": pb.FLOAT32}
_NUMPY_DTYPES: dict[int, np.dtype[Any]] = {pb.FLOAT64: _FLOAT64, pb.FLOAT32: np.dtype("<f4")}


def array_to_proto(array: NDArray[Any], dtype: str = "float64") -> pb.Array:
    """Encode an array as "float64" or "float32"."""
    number = dtype_to_proto(dtype)
    return pb.Array(dtype=number, data=bytes_of(array, _NUMPY_DTYPES[number]))


def bytes_of(array: NDArray[Any], dtype: np.dtype[Any] = _FLOAT64) -> bytes:
    """Return the bytes of an array, row-major."""
    return (array if array.dtype == dtype else array.astype(dtype)).tobytes()


def array_from_proto(
    message: pb.Array,
    field: str,
    shape: tuple[int, ...],
    error: type[ServiceError] = InvalidSystemError,
) -> NDArray[np.float64]:
    """Decode an array of this shape, where one -1 stands for any length.

    Raises:
        ServiceError: The given one, when the bytes do not fit.
    """
    dtype = _NUMPY_DTYPES.get(message.dtype)
    if dtype is None:
        got = f"{field}: expected dtype FLOAT64 (0) or FLOAT32 (1), got {message.dtype}"
        raise error(got, field=field)
    data = message.data
    row, n_bytes = abs(math.prod(shape)) * dtype.itemsize, len(data)
    if n_bytes % row or (-1 not in shape and n_bytes != row):
        rows = f"a multiple of {row} bytes" if -1 in shape else f"{row} bytes"
        expected = f"{rows} of {dtype.name} for shape {_named(shape)}"
        raise error(f"{field}: expected {expected}, got {n_bytes} bytes", field=field)
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return np.asarray(array, dtype=np.float64)


def dtype_to_proto(dtype: str) -> pb.DType:
    """Encode "float64" or "float32"."""
    if dtype not in _DTYPES:
        expected = " or ".join(_DTYPES)
        raise InvalidRequestError(
            f"reply_dtype: expected {expected}, got {dtype!r}", field="reply_dtype"
        )
    return _DTYPES[dtype]


def dtype_from_proto(number: int) -> str:
    """Decode a dtype to "float64" or "float32"."""
    for name, known in _DTYPES.items():
        if number == known:
            return name
    raise InvalidRequestError(
        f"reply_dtype: expected FLOAT64 (0) or FLOAT32 (1), got {number}", field="reply_dtype"
    )


def _named(shape: tuple[int, ...]) -> str:
    return str(["n_atoms" if length < 0 else length for length in shape]).replace("'", "")
