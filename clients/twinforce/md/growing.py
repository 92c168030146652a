"""Files that grow by whole records and can be cut back to where they were."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from twinforce._files import naming

# A .traj file (ULM) begins with a name of 24 bytes, its version, the number of its frames, and the
# place of the table with the places of the frames. Tables have 1, 42, 42², ... entries; a full one
# is followed by a larger one behind the frames. Everything else is only appended.
_ULM_NAME = b"- of Ulm"
_ULM_COUNTS = slice(32, 48)
_ULM_GROWTH = 42
_HEAD_SIZE = 48

_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Mark:
    """A length of a file up to which it consists of whole records.

    Attributes:
        name: Name of the file, without its folder.
        size: Length in bytes.
        head: First bytes as hexadecimal digits; those of a .traj file count its frames.
        digest: SHA-256 of the first and the last bytes before the mark, without those that change
            as a .traj file grows.
    """

    name: str
    size: int
    head: str
    digest: str

    @property
    def is_traj(self) -> bool:
        """True for a .traj file, under whatever name."""
        return bytes.fromhex(self.head).startswith(_ULM_NAME)

    def check(self, path: Path) -> None:
        """Check that a file begins with what was there when the mark was made.

        Raises:
            ValueError: It does not; the message names the file.
        """
        with naming(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self.size:
                raise ValueError(
                    f"{path}: expected at least the {self.size} bytes that the restart file "
                    f"counts on, got {size}; a part of it was lost"
                )
            digest = _digest(file, self.size, bytes.fromhex(self.head))
        if digest != self.digest:
            raise ValueError(
                f"{path}: expected the file that the restart file belongs to, got another one, or "
                "one that was changed since"
            )


class GrowingFile:
    """A binary file that is only written to by whole records, without a buffer.

    It has the methods that ASE needs of a file, but no `fileno`, so that ASE writes through it.

    Args:
        path: Path of the file.
        mark: Where to cut an existing file that continues; None begins a new one.

    Attributes:
        path: Path of the file.
        n_cut: Number of bytes that were behind the mark.

    Raises:
        OSError: The file cannot be opened; the error names it.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        self.path = path
        self.n_cut = 0
        with naming(path):
            self._is_regular = not path.exists() or path.is_file()
            if not self._is_regular:
                self._raw = path.open("wb", buffering=0)
                return
            self._raw = path.open("w+b" if mark is None else "r+b", buffering=0)
            if mark is not None:
                self.n_cut = os.fstat(self._raw.fileno()).st_size - mark.size
                self._cut(mark.size, bytes.fromhex(mark.head))

    @property
    def size(self) -> int:
        """Length in bytes; 0 for a device or a pipe."""
        return os.fstat(self._raw.fileno()).st_size if self._is_regular else 0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Write a record inside this context, or nothing: after an error the file is cut back.

        Raises:
            OSError: It could not be written; the error names the file.
        """
        size, head = self.size, self._head()
        with naming(self.path):
            try:
                yield
            except BaseException:
                if self._is_regular:
                    self._cut(size, head)
                raise

    def mark(self) -> Mark | None:
        """Put all records on the disk and return where they end; None for a device or a pipe."""
        if not self._is_regular:
            return None
        with naming(self.path):
            os.fsync(self._raw.fileno())
            size, head = self.size, self._head()
            digest = _digest(self._raw, size, head)
            self._raw.seek(0, os.SEEK_END)
        return Mark(self.path.name, size, head.hex(), digest)

    def write(self, content: bytes) -> int:
        """Write all of the content at the current position."""
        rest = memoryview(content)
        while rest:
            rest = rest[self._raw.write(rest) :]
        return len(content)

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the current position on."""
        return self._raw.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the current position."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _head(self) -> bytes:
        """Return the first bytes, and move to the end of the file."""
        if not self._is_regular:
            return b""
        self._raw.seek(0)
        head = self._raw.read(_HEAD_SIZE)
        self._raw.seek(0, os.SEEK_END)
        return head or b""

    def _cut(self, size: int, head: bytes) -> None:
        """Make the file what it was when it had this length and this head."""
        self._raw.truncate(size)
        if head.startswith(_ULM_NAME):
            self._raw.seek(0)
            self.write(head)
        self._raw.seek(0, os.SEEK_END)


def _digest(file: IO[bytes], size: int, head: bytes) -> str:
    """Return a digest of the first and last bytes of a file of this size and head.

    What changes as a .traj file grows is left out.
    """
    digest = hashlib.sha256()
    for start in (0, max(size - _WINDOW, 0)):
        file.seek(start)
        part = bytearray(file.read(min(_WINDOW, size - start)))
        for first, last in _changing(head):
            inside = slice(max(first - start, 0), min(last - start, len(part)))
            if inside.start < inside.stop:
                part[inside] = bytes(inside.stop - inside.start)
        digest.update(part)
    return digest.hexdigest()


def _changing(head: bytes) -> list[tuple[int, int]]:
    """Return the ranges of bytes that change as a file with this head grows."""
    if not head.startswith(_ULM_NAME) or len(head) < _HEAD_SIZE:
        return []
    n_frames, table = np.frombuffer(head[_ULM_COUNTS], "<i8").tolist()
    capacity = 1
    while capacity < n_frames:
        capacity *= _ULM_GROWTH
    counts = (_ULM_COUNTS.start, _ULM_COUNTS.stop)
    return [counts, (table + 8 * n_frames, table + 8 * capacity)]
