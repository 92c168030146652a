"""The file of a model: read once, checked, and handed on as the bytes that were checked."""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from twinforce_proto import ModelLoadError

_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.zeros(0).__reduce__()[0]
NUMPY: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *(np.dtype, np.ndarray),
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]
"""Numbers and arrays of numpy, for `ModelFile.unpickle`."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A file with weights.

    Attributes:
        path: Path that the bytes were read from, for messages. Do not read it again: the file may
            have changed.
        content: The bytes.
        sha256: SHA-256 of the bytes, in hexadecimal.
        is_trusted: True if the user vouches for the file, by its hash or for all pickles.
        is_published: True if the file was found by a published name.
    """

    path: Path
    content: bytes
    sha256: str
    is_trusted: bool = False
    is_published: bool = False

    def unpickle(self, allowed: Sequence[Any] = ()) -> Any:
        """Return what the file holds, on the CPU, without running any code that it names.

        If the file is trusted and holds more than that, it is unpickled all the same.

        Args:
            allowed: Classes and functions that the file may name besides tensors, numbers and
                strings, as `torch.serialization.safe_globals` takes them.

        Raises:
            ModelLoadError: If the file cannot be read without running code, or at all.
        """
        try:
            with _only(allowed):
                return self._load(weights_only=True)
        except Exception as error:  # of many classes, if the bytes are no checkpoint
            if self.is_trusted:
                return self._load(weights_only=False)
            is_unsafe = isinstance(error, UnpicklingError)
            why = (
                self._why_unsafe(allowed, error) if is_unsafe else f"expected a checkpoint: {error}"
            )
            raise ModelLoadError(f"{self.path}: {why}") from error

    @contextlib.contextmanager
    def private_copy(self) -> Iterator[Path]:
        """Give the path of a copy of the bytes that only this user can change, for a while."""
        with tempfile.TemporaryDirectory(prefix="twinforce-") as folder:
            path = Path(folder) / self.path.name
            path.write_bytes(self.content)
            yield path

    def _load(self, *, weights_only: bool) -> Any:
        return torch.load(io.BytesIO(self.content), map_location="cpu", weights_only=weights_only)

    def _why_unsafe(self, allowed: Sequence[Any], error: Exception) -> str:
        return (
            f"the file contains {self._unknown(allowed) or _short(error)}, and "
            "loading it could run arbitrary code. If you trust its author, add #sha256= with the "
            "hash that the author publishes, or start the server with --trust-pickles"
        )

    def _unknown(self, allowed: Sequence[Any]) -> str:
        try:
            found = unsafe_names(self.content)
        except Exception:  # not a file that torch can list
            return ""
        return ", ".join(sorted({*found} - {_name(each) for each in allowed}))


def unsafe_names(content: bytes) -> list[str]:
    """Return the names in a checkpoint that torch does not allow by itself.

    Raises:
        ValueError: If the bytes are a checkpoint that torch cannot list.
    """
    with _only(()):
        return torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))


def read_file(path: Path, sha256: str | None, *, trusted: bool, published: bool) -> ModelFile:
    """Read a file and compare its hash with the expected one.

    Args:
        path: Path of the file.
        sha256: Expected SHA-256; None accepts any.
        trusted: True if pickles in it may run code even if no hash is expected.
        published: True if the file was found by a published name.

    Raises:
        ModelLoadError: If the file cannot be read, or has another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ModelLoadError(f"{path}: its SHA-256 is {found}, expected {sha256}")
    return ModelFile(path, content, found, trusted or sha256 is not None, published)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _only(allowed: Sequence[Any]) -> Iterator[None]:
    """Allow these names in files, and none that packages have allowed for the whole process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _short(error: Exception) -> str:
    """Return the reason in an error of torch, without its advice."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2]
    return " ".join(reason.partition("Check the documentation")[0].split())


def _name(allowed: Any) -> str:
    if isinstance(allowed, tuple):
        return str(allowed[1])
    return f"{allowed.__module__}.{allowed.__qualname__}"
