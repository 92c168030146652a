"""Files that are replaced as a whole, and errors that name the file."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Add the name of a file to errors of the operating system, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_file(path: Path | str, content: bytes) -> None:
    """Write a file, which holds all of the old or all of the new content at any moment.

    The new content is on the disk when this returns. A symbolic link keeps pointing to the file;
    what cannot be replaced, such as a device or a pipe, is written to.

    Raises:
        OSError: The file cannot be written, which leaves the old one; the error names it.
    """
    target = Path(os.path.realpath(path))
    with naming(path):
        if target.exists() and not target.is_file():
            target.write_bytes(content)
        else:
            _replace_regular_file(target, content)


def partial_of(target: Path) -> Path:
    """Return the file that `replace_file` writes first; a process that was killed leaves it."""
    return target.with_name(target.name + ".part")


def _replace_regular_file(target: Path, content: bytes) -> None:
    partial = partial_of(target)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
