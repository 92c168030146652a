"""The publication of a server in its address file, with a key and a certificate of its own."""

import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from twinforce_service.callers.key_file import Key, write_keys
from twinforce_service.callers.key_text import hash_of, new_key
from twinforce_service.callers.permission import SCOPES
from twinforce_service.clusters.address_file import Entry, SharedAddressFile
from twinforce_service.clusters.certificate import make_certificate
from twinforce_service.hosts import is_loopback
from twinforce_service.settings import Settings

logger = logging.getLogger(__name__)

# Name of the key, in logs and metrics.
_OWNER = "address-file"
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104, they are compared with the host


class Publication:
    """The entry of a server in an address file, written when it is ready.

    Args:
        settings: Settings as they are given.
        secrets: Private folder for the files of the key and of the certificate.

    Attributes:
        settings: Settings with a key and a certificate, which are made if none are given.

    Raises:
        OSError: There is no certificate, and none can be made.
    """

    def __init__(self, settings: Settings, secrets: Path) -> None:
        self._host = _public_host(settings.host)
        path = Path(settings.address_file).expanduser().absolute()
        self._file = SharedAddressFile(path, settings.address_file_servers)
        self._entry: Entry = {}
        made: dict[str, str] = {}
        if not settings.has_keys:
            made["keys"], self._entry["key"] = _make_key(secrets / "keys.json")
        if not (settings.tls_certificate or is_loopback(self._host)):
            certificate, key = make_certificate(secrets, self._host)
            made |= {"tls_certificate": str(certificate), "tls_key": str(key)}
            self._entry["ca"] = certificate.read_text()
        self.settings = settings.model_copy(update=made)

    def publish(self, rest_url: str, grpc_url: str) -> None:
        """Write where the server is.

        Raises:
            OSError: The file cannot be written.
        """
        self._entry |= {"grpc": self._public(grpc_url), "rest": self._public(rest_url)}
        try:
            self._file.add(self._entry)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(f"address-file: expected a file that can be written: {reason}") from error

    def withdraw(self) -> None:
        """Remove the server from the file, because it takes no more calls."""
        try:
            self._file.remove(self._entry)
        except OSError as error:
            logger.warning("the address file cannot be changed: %s", error)

    def _public(self, url: str) -> str:
        """Return a URL with the name by which other machines reach this one."""
        parts = urlsplit(url)
        host = f"[{self._host}]" if ":" in self._host else self._host
        return urlunsplit((parts.scheme, f"{host}:{parts.port}", parts.path, "", ""))


@contextlib.contextmanager
def publication(settings: Settings) -> Iterator[Publication | None]:
    """Yield the publication that the settings ask for, and remove its secrets afterwards.

    Raises:
        OSError: There is no certificate, and none can be made.
    """
    if not settings.address_file:
        yield None
        return
    secrets = Path(tempfile.mkdtemp(prefix="twinforce-"))  # mode 0700
    try:
        yield Publication(settings, secrets)
    finally:
        shutil.rmtree(secrets, ignore_errors=True)


def _public_host(host: str) -> str:
    return socket.gethostname() if host in _ALL_ADDRESSES else host


def _make_key(path: Path) -> tuple[str, str]:
    """Write a file of one new key; return the path and the text of the key."""
    key_id, text = new_key()
    key = Key(
        name=_OWNER, id=key_id, hash=hash_of(text), scopes=frozenset(SCOPES), may_be_urgent=True
    )
    write_keys(path, [key])
    return str(path), text
