"""A file that is downloaded, continued where a connection broke, and kept only if it is right."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from twinforce_service.hosts import is_loopback

_PART_BYTES = 2**20
# Seconds without a byte after which a connection counts as broken, and between the attempts.
_SILENCE_S = 30.0
_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
# Answers after which the same request may succeed later.
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_EXPECTED = "NAME=URL#sha256=HASH"


class DownloadError(Exception):
    """A file that could not be downloaded or written, or is another one than expected."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file to download.

    Attributes:
        name: Name of the file in its folder.
        url: Address, over https or http.
        sha256: Hash of the content, in hexadecimal digits.
    """

    name: str
    url: str
    sha256: str

    @classmethod
    def parse(cls, text: str) -> "Download":
        """Return the download that a text such as `a.pt=https://host/a.pt#sha256=3f…` names.

        Raises:
            ValueError: The text has another form.
        """
        name, _, rest = text.partition("=")
        url, _, sha256 = rest.rpartition("#sha256=")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"expected {_EXPECTED} with the name of a file, got {text!r}")
        if urlsplit(url).scheme not in ("https", "http") or not urlsplit(url).hostname:
            raise ValueError(f"expected {_EXPECTED} with an https or http URL, got {text!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(f"expected {_EXPECTED} with 64 hexadecimal digits, got {text!r}")
        return cls(name, url, sha256)


def fetch(
    download: Download,
    folder: Path,
    token: str = "",
    wait: Callable[[float], None] = time.sleep,
) -> bool:
    """Download a file into a folder, as a whole or not at all; return False if it was there.

    What was received is kept in a hidden file when the process ends, and continued by the next one.

    Args:
        download: File to download.
        folder: Folder that exists.
        token: Bearer token for the address itself, which is not sent to where it redirects.
        wait: Waits between attempts.

    Raises:
        DownloadError: The file cannot be had, cannot be written, or has another hash.
        OSError: The folder cannot be used.
    """
    target = folder / download.name
    if _is_right(target, download):
        return False
    request = _request(download, token)
    part = folder / f".{download.name}.{download.sha256[:16]}.part"
    with _locked(part) as file:
        if _is_right(target, download):  # another process has downloaded it meanwhile
            part.unlink()
            return False
        try:
            _complete(request, download, file, wait)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            part.replace(target)
        except BaseException:
            if not _n_bytes(file):
                part.unlink()
            raise
    return True


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """Yield a file that no other process writes to; it is made if it does not exist.

    Another process may have renamed or removed the file while this one waited for it.
    """
    while True:
        with FileIO(path, "r+", opener=_open_or_make) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield file
                return


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _is_at(path: Path, file: FileIO) -> bool:
    """Return True if a path leads to an open file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file.fileno()))


def _complete(
    request: Request, download: Download, file: FileIO, wait: Callable[[float], None]
) -> None:
    """Download what is missing in a file; begin again if what was there is of another one.

    Raises:
        DownloadError: The file cannot be had, or has another hash.
    """
    file.seek(0, os.SEEK_END)
    is_continued = file.tell() > 0
    if is_continued and _sha256(file) == download.sha256:
        return
    _receive(request, file, wait)
    if is_continued and _sha256(file) != download.sha256:
        _empty(file)
        _receive(request, file, wait)
    if (got := _sha256(file)) != download.sha256:
        _empty(file)
        raise DownloadError(
            f"{download.url}: expected content with sha256 {download.sha256}, got {got}"
        )


def _request(download: Download, token: str) -> Request:
    # A download has an address over https or http.
    request = Request(download.url, headers={"User-Agent": "twinforce-server"})  # noqa: S310
    if token:
        address = urlsplit(download.url)
        if address.scheme != "https" and not is_loopback(address.hostname or ""):
            raise DownloadError(f"expected https for a URL with a token, got {download.url}")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _receive(request: Request, file: FileIO, wait: Callable[[float], None]) -> None:
    """Write the content of an address into a file; begin again where a connection broke."""
    for delay in (*_DELAYS_S, None):
        try:
            if _receive_rest(request, file):
                return
            problem: object = "the connection ended early"
        except HTTPError as error:
            with error:
                if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and file.tell():
                    _empty(file)  # what is there is of another file
                elif error.code not in _PASSING:
                    raise _failed(request, error) from error
            problem = error
        except (OSError, HTTPException) as error:  # URLError among them
            problem = error
        if delay is not None:
            wait(delay)
    raise _failed(request, problem)


def _receive_rest(request: Request, file: FileIO) -> bool:
    """Append what is missing in a file; return True once it is complete."""
    request.remove_header("Range")
    if (begin := file.tell()) > 0:
        request.add_header("Range", f"bytes={begin}-")
    with urlopen(request, timeout=_SILENCE_S) as reply:  # noqa: S310, as above
        is_rest, place = (
            reply.status == HTTPStatus.PARTIAL_CONTENT,
            reply.getheader("Content-Range"),
        )
        if is_rest and not str(place).startswith(f"bytes {begin}-"):
            raise HTTPException(f"the range {place} for bytes from {begin} on")
        if not is_rest:
            _empty(file)
        n_left = reply.length  # None where only the end of the connection tells
        while part := reply.read1(_PART_BYTES):
            _write(part, file)
            n_left = None if n_left is None else n_left - len(part)
        return not n_left


def _write(part: bytes, file: FileIO) -> None:
    """Append bytes to a file, at once, so that closing it has nothing left to write.

    Raises:
        DownloadError: They cannot be written; unlike an error of the network, this does not pass.
    """
    rest = memoryview(part)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise DownloadError(f"{file.name}: cannot be written: {error.strerror}") from error


def _empty(file: FileIO) -> None:
    file.seek(0)
    file.truncate()


def _n_bytes(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _failed(request: Request, problem: object) -> DownloadError:
    return DownloadError(f"{request.full_url}: expected its content, got {problem}")


def _is_right(path: Path, download: Download) -> bool:
    try:
        if not path.is_file():
            return False
        with FileIO(path) as file:
            return _sha256(file) == download.sha256
    except FileNotFoundError:  # somebody has removed it meanwhile
        return False


def _sha256(file: FileIO) -> str:
    """Return the hash of a whole file, whose end is the place to write to afterwards."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
