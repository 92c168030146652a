"""The key of a client, and the certificates of its connections, the same for every transport."""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx2

from twinforce._transports.url import Address

KEY_VARIABLE = "TWINFORCE_KEY"
KEY_FILE_VARIABLE = "TWINFORCE_KEY_FILE"

KeySource: TypeAlias = str | os.PathLike[str] | Callable[[], str]
"""A key, a file of it that is read for each call, or a function that returns it for each call."""

_INSECURE_VARIABLE = "TWINFORCE_INSECURE_KEY"
# Argument of `Client` -> environment variable.
_FILES = {
    "ca": "TWINFORCE_CA",
    "certificate": "TWINFORCE_CERTIFICATE",
    "private_key": "TWINFORCE_PRIVATE_KEY",
}
# Variables that name certificates to trust, for many programs and for gRPC.
_CA_FILE, _CA_FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
_GRPC_CA_FILE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


class SecretText(str):
    """A text that tracebacks, debuggers and logs of values do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[secret]'"


class KeyFile:
    """A file of a key, which others may replace at any time.

    Args:
        path: Path of the file.

    Raises:
        ValueError: The file holds no key, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser()
        self._last = SecretText()
        try:
            self._last = self._read()
        except OSError as error:
            text = f"key: expected a file that can be read, got {self._path}: {error.strerror}"
            raise ValueError(text) from error

    def __call__(self) -> SecretText:
        """Return the key that the file holds now, or held when it could be read last."""
        try:
            self._last = self._read()
        except (OSError, ValueError):
            return self._last
        return self._last

    def _read(self) -> SecretText:
        key = _checked_key(self._path.read_text())
        if key is None:
            raise ValueError(f"key: expected a file that holds a key, got {self._path}")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The key of a client, and the files of certificates.

    Attributes:
        key: Key that the service asks for, or a function that returns it; None if there is none.
        ca: File of certificates to trust; None means those of the system.
        certificate: File of the client's own certificate, if it has one.
        private_key: File of the private key of that.
        authority: Certificates to trust, in PEM, if they are not in a file.
    """

    key: SecretText | Callable[[], str] | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    authority: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of HTTP requests, or metadata of gRPC, that give the key as it is now."""
        key = _checked_key(self.key()) if callable(self.key) else self.key
        return {} if key is None else {"authorization": SecretText(f"Bearer {key}")}

    @property
    def is_renewed(self) -> bool:
        """True if the next call may have another key than the last one."""
        return callable(self.key)

    def tls(self) -> ssl.SSLContext:
        """Return the settings of TLS, from the files as they are now.

        Raises:
            OSError: A file cannot be read, or is none of certificates.
        """
        if self.ca is None and self.authority is None:
            context = httpx2.create_ssl_context()
        else:
            context = ssl.create_default_context(cafile=self.ca, cadata=self.authority)
        if self.certificate is not None:
            # An encrypted key is refused instead of asking for its password.
            context.load_cert_chain(self.certificate, self.private_key, password="")
        return context

    def trusted(self) -> bytes | None:
        """Return the certificates to trust, for gRPC; None means those that it has itself."""
        if self.authority is not None:
            return self.authority.encode()
        path = self.ca or os.environ.get(_CA_FILE)
        if path is None and not {_CA_FOLDER, _GRPC_CA_FILE} & os.environ.keys():
            path = ssl.get_default_verify_paths().cafile
        return None if path is None else Path(path).read_bytes()

    def own(self) -> tuple[bytes | None, bytes | None]:
        """Return the private key and the certificate of the client, for gRPC."""
        if self.certificate is None:
            return None, None
        certificate = Path(self.certificate).read_bytes()
        key = self.private_key
        return certificate if key is None else Path(key).read_bytes(), certificate


def access_to(
    url: Address, *, key: KeySource | None = None, insecure_key: bool | None = None, **files: Any
) -> Access:
    """Return the access of a client; arguments that are None come from the environment.

    Args:
        url: Address of the service.
        key: Key, or where it comes from; empty means none, whatever the environment says.
        insecure_key: True to send the key without TLS, too.
        files: Paths of `ca`, `certificate` and `private_key`.

    Raises:
        ValueError: The key would be sent unprotected, or an argument is invalid.
    """
    found = _key_from(_key_in_environment() if key is None else key)
    if insecure_key is None:
        insecure_key = os.environ.get(_INSECURE_VARIABLE, "").lower() in ("1", "true", "yes")
    if found is not None and not (url.is_secure or url.is_loopback or insecure_key):
        secure = "grpcs" if url.transport == "grpc" else "https"
        raise ValueError(
            f"key: expected a url that begins with {secure}://, or one of this machine, got {url}: "
            "others on the network could read the key; if they may, give insecure_key=True or set "
            f"{_INSECURE_VARIABLE}=1"
        )
    paths = {name: _path(name, given) for name, given in files.items()}
    access = Access(key=found, **paths)
    if access.private_key is not None and access.certificate is None:
        raise ValueError("private_key: expected the certificate that it belongs to, got none")
    if given := [name for name, value in files.items() if value is not None]:
        _check_files(url, access, given)
    return access


def _key_in_environment() -> KeySource | None:
    if (key := os.environ.get(KEY_VARIABLE)) is not None:
        return key
    file = os.environ.get(KEY_FILE_VARIABLE)
    return Path(file) if file else None


def _key_from(key: Any) -> SecretText | Callable[[], str] | None:
    if isinstance(key, os.PathLike):
        return KeyFile(key)
    return key if callable(key) else _checked_key(key)


def _checked_key(key: Any) -> SecretText | None:
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise ValueError(f"key: expected a text, got {type(key).__name__}")
    text = key = SecretText(key.strip())  # so that no traceback shows it
    if not (text.isascii() and text.isprintable() and text and " " not in text):
        raise ValueError("key: expected printable ASCII characters without spaces, got others")
    return text


def _path(name: str, given: Any) -> str | None:
    value = os.environ.get(_FILES[name]) or None if given is None else given
    if value is None or isinstance(value, str | os.PathLike):
        return None if value is None else os.path.expanduser(value)  # noqa: PTH111
    raise ValueError(f"{name}: expected a path, got {type(value).__name__}")


def _check_files(url: Address, access: Access, given: list[str]) -> None:
    if not url.is_secure:
        raise ValueError(f"{given[0]}: expected a url with TLS, https:// or grpcs://, got {url}")
    try:
        access.tls()
    except (OSError, ValueError) as error:
        names = ", ".join(given)
        raise ValueError(f"{names}: expected files of certificates in PEM: {error}") from error
