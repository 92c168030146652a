"""Reading of atoms from files, checks of files to write, and imports of optional packages."""

import errno
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from twinforce._files import replace_file
from twinforce_proto import OUTPUTS

# What a model or a simulation computes for a state, which is wrong for any other state.
_RESULTS = ("energy", "free_energy", "forces", "stress", "correction_work", *OUTPUTS)

# Options of files that are written bit by bit; all others are replaced as a whole, which needs a
# folder that can be written to.
_GROWING = ("--log", "--trajectory")

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def require(module: str, extra: str = "cli") -> Any:
    """Import a module of a package that the client itself does not need.

    Args:
        module: Name of the module.
        extra: Extra of the distribution that brings what the module needs.

    Raises:
        ModuleNotFoundError: The package is missing; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).partition(".")[0]
        raise ModuleNotFoundError(
            f"this command needs {name}: pip install 'twinforce[{extra}]' ({error})"
        ) from error


def read_atoms(path: Path, index: str) -> list[Any]:
    """Read atoms from a file of any format that ASE knows.

    Args:
        path: Path of the file.
        index: Systems to read, in the notation of ASE: "-1", ":", "0:100:10".

    Raises:
        ValueError: The file cannot be read or holds no such systems.
    """
    require("ase.io")
    selection = _selection(index)
    if not path.exists():
        hint = "; give the address of a service with --url" if ":/" in str(path) else ""
        raise ValueError(f"{path}: no such file{hint}")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got {'a folder' if path.is_dir() else path}")
    found = _read(path, selection)
    if not found:
        n_systems = len(_read(path, slice(None)))
        held = {0: "no systems", 1: "one system, 0"}.get(
            n_systems, f"{n_systems} systems, 0 to {n_systems - 1}"
        )
        raise ValueError(f"{path}: holds no atoms at {index!r}; it holds {held}")
    return found


def without_results(atoms: Any) -> Any:
    """Return a copy of atoms without a calculator and without results of earlier predictions."""
    bare = atoms.copy()
    for labels in (bare.info, bare.arrays):
        for name in [*labels]:
            if name in _RESULTS or name.startswith(("force_rmse", "twinforce_")):
                labels.pop(name)
    return bare


def check_outputs(source: Path, outputs: Mapping[str, Path | None]) -> None:
    """Check that files can be written, and that each is a file of its own.

    Args:
        source: File that is read.
        outputs: Files to write, by their options; None means that it is not given.

    Raises:
        OSError: A folder is missing or cannot be written to.
        ValueError: A file would be written over the source or over another one, or has the name
            of a compressed file.
    """
    given = {option: path for option, path in outputs.items() if path is not None}
    for option, path in given.items():
        _check_writable(path, is_replaced=option not in _GROWING)
        if path.suffix.lower() in _COMPRESSED:
            raise ValueError(
                f"{option} {path}: expected a name without {path.suffix}, because files are "
                "written uncompressed"
            )
    for (option, path), (other, other_path) in combinations({**given, "FILE": source}.items(), 2):
        if _are_same(path, other_path):
            raise ValueError(
                f"{option} {path}: expected a file of its own, got the same file as {other}"
            )


def format_to_write(path: Path | None) -> str:
    """Return the format of ASE that the name of a file asks for; extxyz for standard output.

    Raises:
        ValueError: ASE knows no format of this name, or cannot write it.
    """
    if path is None:
        return "extxyz"
    formats = require("ase.io.formats")
    try:
        kind: str = formats.filetype(path.name, read=False)
        can_write = formats.get_ioformat(kind).can_write
    except formats.UnknownFileTypeError:
        can_write = False
    if not can_write:
        raise ValueError(
            f"{path}: expected the name of a file that ASE writes, such as one that ends in .xyz, "
            ".traj, .cif or .vasp"
        )
    return kind


def check_atoms(path: Path | None, all_atoms: Sequence[Any], file_format: str) -> None:
    """Check that a format can hold systems like these.

    Raises:
        ValueError: It cannot, for example because it needs a cell.
    """
    _content(path, all_atoms, file_format)


def write_atoms(path: Path | None, all_atoms: Sequence[Any], file_format: str) -> None:
    """Write systems to a file, which is replaced as a whole, or to standard output.

    Raises:
        ValueError: The format cannot hold them; no file was touched.
    """
    content = _content(path, all_atoms, file_format)
    if path is None:
        sys.stdout.write(content.decode())
    else:
        replace_file(path, content)


def check_image(path: Path) -> None:
    """Check that a plot can be written in the format that its name asks for.

    Raises:
        ValueError: The suffix is unknown.
    """
    known = require("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"{path}: expected a name that ends in .{', .'.join(sorted(known))}")


def _content(path: Path | None, all_atoms: Sequence[Any], file_format: str) -> bytes:
    formats = require("ase.io.formats")
    file: Any = io.BytesIO() if formats.get_ioformat(file_format).isbinary else io.StringIO()
    try:
        formats.write(file, all_atoms, format=file_format)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be written as {file_format}: {reason}") from error
    content: str | bytes = file.getvalue()
    return content if isinstance(content, bytes) else content.encode()


def _selection(index: str) -> slice:
    try:
        numbers = [int(part) if part.strip() else None for part in index.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            return slice(numbers[0], numbers[0] + 1 or None)
        if len(numbers) in (2, 3) and 0 not in numbers[2:]:
            return slice(*numbers)
    except ValueError:
        pass
    raise ValueError(
        f"--index: expected a number such as -1 or a range such as 0:100:10, got {index!r}"
    )


def _read(path: Path, selection: slice) -> list[Any]:
    """Return the selected systems of a file.

    Raises:
        ValueError: The file cannot be read.
    """
    formats = require("ase.io.formats")
    try:
        with path.open("rb"):
            pass  # for the reason of the system, if there is one
        kind = formats.filetype(str(path))
        if formats.get_ioformat(kind).single:
            return [formats.read(str(path), format=kind, do_not_split_by_at_sign=True)][selection]
        return list(formats.read(str(path), selection, format=kind, do_not_split_by_at_sign=True))
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read: {reason or type(error).__name__}") from error


def _check_writable(path: Path, *, is_replaced: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    folder = Path(os.path.realpath(path)).parent
    is_opened = path.exists() and not (is_replaced and path.is_file())
    target = path if is_opened else folder
    if not target.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _are_same(path: Path, other: Path) -> bool:
    """Return True if two paths lead to one file; devices such as /dev/null do not count."""
    if path.exists() and other.exists():
        return path.is_file() and path.samefile(other)
    return os.path.realpath(path) == os.path.realpath(other)
