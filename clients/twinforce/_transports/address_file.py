"""The address file of a service, which says where its servers are now and which key they ask for.

It is JSON, and written anew as a whole whenever the service starts at another place:

    {"n_servers": 1, "servers": [{"grpc": "grpcs://node17:40123", "rest": "https://node17:40124",
                                  "key": "tf_...", "ca": "-----BEGIN CERTIFICATE-----..."}]}

The key and the certificate to trust are those of one server, and may be missing.
"""

import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from twinforce._transports.access import Access, SecretText, access_to
from twinforce._transports.transport import MisdirectedError
from twinforce._transports.url import Address, Url, parse_address, parse_url
from twinforce_proto import UnavailableError

# Scheme -> transport to use of those that the file names.
_SCHEMES: dict[str, Literal["grpc", "rest"] | None] = {
    "file": None,
    "file+grpc": "grpc",
    "file+rest": "rest",
}
_EXPECTED = "expected the path of an address file, such as file:~/.twinforce/job-123.json"
_MOST_BYTES = 16 * 2**20
_ROOT = 0
# Seconds without a further server after which those that have started are used alone.
_LONGEST_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a service.

    Attributes:
        url: Its address.
        access: The key and the certificates for it.
    """

    url: Url
    access: Access


@dataclass(frozen=True, slots=True)
class AddressFile:
    """The path of an address file.

    Attributes:
        path: Absolute path.
        transport: Transport to use; None means gRPC if the file names its address, or else REST.
        access: Arguments of `access_to`, which precede the key and certificate in the file.
    """

    path: Path
    transport: Literal["grpc", "rest"] | None
    access: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"file{f'+{self.transport}' if self.transport else ''}:{self.path}"

    def servers(self) -> tuple[Server, ...]:
        """Return the servers that the file names now.

        Raises:
            UnavailableError: There is no such file, or only some of the servers have started.
            MisdirectedError: The file cannot be read, or is not an address file.
        """
        members, changed = self._content()
        try:
            if not isinstance(members, dict) or not isinstance(members.get("servers"), list):
                raise ValueError("expected an object with a list of servers")
            found = tuple(self._server(each) for each in members["servers"])
            n_expected = members.get("n_servers", len(found))
            if not found or not isinstance(n_expected, int):
                raise ValueError("expected at least one server, and their number")
            if len({(each.url.is_secure, each.url.path) for each in found}) > 1:
                raise ValueError("expected urls that differ in host and port only")
        except (KeyError, ValueError) as error:
            raise MisdirectedError(f"{self}: not an address file: {error}") from error
        if len(found) < n_expected and time.time() - changed < _LONGEST_START_S:
            raise UnavailableError(f"{self}: {len(found)} of {n_expected} servers have started")
        return found

    def current_key(self) -> SecretText:
        """Return the key of the first server, or an empty text if there is none."""
        try:
            headers = self.servers()[0].access.headers
        except UnavailableError:
            return SecretText()
        return SecretText(headers.get("authorization", "").removeprefix("Bearer "))

    def _content(self) -> tuple[Any, float]:
        """Return the members in the file, and the time at which it changed."""
        try:
            members, changed = self._read()
        except FileNotFoundError as error:
            text = f"{self}: no such file: the service has not started yet, or has ended"
            raise UnavailableError(text) from error
        except OSError as error:
            raise MisdirectedError(f"{self}: {(error.strerror or str(error)).lower()}") from error
        if isinstance(members, _Undecodable):
            raise MisdirectedError(f"{self}: {members.reason}")
        return members, changed

    def _read(self) -> tuple[Any, float]:
        """Return what is in the file; nothing is raised once its keys have been read."""
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            self._check_owner(found)
            return _decoded(file.read(_MOST_BYTES + 1)), found.st_mtime

    def _check_owner(self, found: os.stat_result) -> None:
        """Refuse a file by which another user could lead this one, and the key, elsewhere."""
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise MisdirectedError(
                f"{self}: expected a file that only its owner may write to: chmod 600"
            )
        if hasattr(os, "geteuid") and found.st_uid not in (os.geteuid(), _ROOT):
            raise MisdirectedError(
                f"{self}: expected a file of this user (id {os.geteuid()}) or of root, got one of "
                f"the user with id {found.st_uid}"
            )

    def _server(self, members: Any) -> Server:
        if not isinstance(members, dict):
            raise ValueError("servers: expected objects")
        names = [self.transport] if self.transport else ["grpc", "rest"]
        name = next((each for each in names if each in members), None)
        if name is None:
            raise ValueError(f"servers: expected the address of {' or '.join(map(str, names))}")
        url = parse_url(members[name])
        if url.transport != name:
            raise ValueError(f"servers: expected the address of {name}, got {url}")
        given = dict(self.access)
        if given.get("key") is None:
            given["key"] = members.get("key")
        access, authority = access_to(Address((url,)), **given), members.get("ca")
        if given.get("ca") is None and authority is not None:
            access = replace(access, ca=None, authority=authority)
            _check_authority(access)
        return Server(url, access)


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """The reason why there are no members in a content."""

    reason: str


def _decoded(content: bytes) -> Any:
    """Return the members in a content; it raises nothing, as errors would hold the keys in it."""
    if len(content) > _MOST_BYTES:
        return _Undecodable(f"expected at most {_MOST_BYTES} bytes")
    try:
        return json.loads(content, object_hook=_with_secret_key)
    except RecursionError:
        return _Undecodable("not an address file: expected JSON that is nested less deeply")
    except UnicodeDecodeError:
        return _Undecodable("not an address file: expected UTF-8")
    except ValueError as error:
        return _Undecodable(f"not an address file: {error}")


def _with_secret_key(members: dict[str, Any]) -> dict[str, Any]:
    if isinstance(key := members.get("key"), str):
        members["key"] = SecretText(key)
    return members


def _check_authority(access: Access) -> None:
    """Refuse certificates that cannot be used, which would look like an outage later."""
    if not isinstance(access.authority, str) or not access.authority:
        raise ValueError("servers: expected a certificate in PEM as the member ca")
    try:
        access.tls()
    except (OSError, TypeError, ValueError) as error:  # OSError is the base of those of ssl
        raise ValueError(f"servers: expected a certificate in PEM: {error}") from error


def locate(url: str, **access: Any) -> tuple[Address | AddressFile, Access]:
    """Return the address of a service, and the access to it.

    Args:
        url: URLs of its servers, or file: and the path of its address file.
        access: Arguments of `access_to`.

    Raises:
        ValueError: The url or an argument is invalid, or the address file is.
    """
    if isinstance(key := access.get("key"), str):
        access["key"] = key = SecretText(key)
    scheme = url.partition(":")[0].lower() if isinstance(url, str) else ""
    if scheme not in _SCHEMES:
        address = parse_address(url)
        return address, access_to(address, **access)
    file = AddressFile(_path(url), _SCHEMES[scheme], access)
    try:
        file.servers()
    except MisdirectedError as error:
        raise ValueError(str(error)) from error
    except UnavailableError:
        pass  # it is written once the service has started
    return file, Access(key=file.current_key)


def _path(url: str) -> Path:
    """Return the path in a URL, such as file:relative/path or file:///absolute/path."""
    text = url.partition(":")[2]
    try:
        if text.startswith("//"):
            parts = urlsplit(url)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise ValueError(f"{_EXPECTED}, got {url!r}")
            text = unquote(parts.path)
        if not text.strip("/"):
            raise ValueError(f"{_EXPECTED}, got {url!r}")
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # there is no such home
        raise ValueError(f"{_EXPECTED}, got {url!r}: {error}") from error
