"""A file that is downloaded, continued where a connection broke, and kept only if it is right."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO
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
    """A file that could not be downloaded, or is another one than expected."""


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

    Args:
        download: File to download.
        folder: Folder that exists.
        token: Bearer token for the address itself, which is not sent to where it redirects.
        wait: Waits between attempts.

    Raises:
        DownloadError: The file cannot be had, or has another hash.
    """
    target = folder / download.name
    if target.is_file() and _sha256(target) == download.sha256:
        return False
    request = _request(download, token)
    number, name = tempfile.mkstemp(prefix=f".{download.name}.", dir=folder)
    try:
        with os.fdopen(number, "wb") as file:
            _receive(request, file, wait)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        if (got := _sha256(Path(name))) != download.sha256:
            raise DownloadError(
                f"{download.url}: expected content with sha256 {download.sha256}, got {got}"
            )
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def _request(download: Download, token: str) -> Request:
    # A download has an address over https or http.
    request = Request(download.url, headers={"User-Agent": "twinforce-server"})  # noqa: S310
    if token:
        address = urlsplit(download.url)
        if address.scheme != "https" and not is_loopback(address.hostname or ""):
            raise DownloadError(f"expected https for a URL with a token, got {download.url}")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _receive(request: Request, file: IO[bytes], wait: Callable[[float], None]) -> None:
    """Write the content of an address into a file; begin again where a connection broke."""
    for delay in (*_DELAYS_S, None):
        try:
            if _receive_rest(request, file):
                return
            problem: object = "the connection ended early"
        except HTTPError as error:
            with error:
                if error.code not in _PASSING:
                    raise _failed(request, error) from error
            problem = error
        except (OSError, HTTPException) as error:  # URLError among them
            problem = error
        if delay is not None:
            wait(delay)
    raise _failed(request, problem)


def _receive_rest(request: Request, file: IO[bytes]) -> bool:
    """Append what is missing in a file; return True once it is complete."""
    if (begin := file.tell()) > 0:
        request.add_header("Range", f"bytes={begin}-")
    with urlopen(request, timeout=_SILENCE_S) as reply:  # noqa: S310, as above
        if reply.status != HTTPStatus.PARTIAL_CONTENT:
            file.seek(0)
            file.truncate()
        n_left = reply.length  # None where only the end of the connection tells
        while part := reply.read(_PART_BYTES):
            file.write(part)
            n_left = None if n_left is None else n_left - len(part)
        return not n_left


def _failed(request: Request, problem: object) -> DownloadError:
    return DownloadError(f"{request.full_url}: expected its content, got {problem}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
