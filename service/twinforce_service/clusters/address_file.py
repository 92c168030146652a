"""The address file, in which servers say where they are and which key they ask for.

Clients are given its path in place of a URL, as in `Client("file:~/.twinforce/job-123.json")`, and
read it again when they cannot reach the service.
"""

import contextlib
import fcntl
import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Entry: TypeAlias = dict[str, str]
"""What the file says of one server: `grpc` and `rest`, its URLs, `key` and `ca`."""

_SERVERS, _N_SERVERS = "servers", "n_servers"
_URLS = ("grpc", "rest")
# Seconds to wait for a server that may have ended, and number of servers that are asked at once.
_PATIENCE_S, _MOST_AT_ONCE = 2.0, 16


class SharedAddressFile:
    """A file that several servers share, each of which adds itself and removes itself.

    Only its owner may read it. Readers see the old file or the new one.

    Args:
        path: Path of the file.
        n_servers: Number of servers that share it.
    """

    def __init__(self, path: Path, n_servers: int) -> None:
        self._path = path
        self._n_servers = n_servers

    def add(self, entry: Entry) -> None:
        """Add a server.

        If the file then names more servers than share it, some have ended without removing
        themselves: those at whose addresses nobody listens are dropped, and then the oldest ones.

        Raises:
            OSError: The file cannot be written.
        """
        with self._locked():
            others, n_servers = self._read()
            others = [each for each in others if _is_elsewhere(each, entry)]
            if len(others) >= self._n_servers:
                others = _listening(others)
                others = others[max(len(others) + 1 - self._n_servers, 0) :]
            if not others:
                n_servers = self._n_servers
            self._write([*others, entry], max(n_servers, len(others) + 1))

    def remove(self, entry: Entry) -> None:
        """Remove a server that stops, and the file with the last one.

        Raises:
            OSError: The file cannot be written.
        """
        with self._locked():
            servers, n_servers = self._read()
            if entry not in servers:
                return
            servers.remove(entry)
            if servers:
                self._write(servers, n_servers - 1)
            else:
                self._path.unlink()
                self._lock.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self._path.with_name(f".{self._path.name}.lock")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one server at a time change the file, by a lock that holds on shared folders too."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = self._open_lock()
        try:
            yield
        finally:
            os.close(number)

    def _open_lock(self) -> int:
        """Return the descriptor of the locked lock file, which others may remove meanwhile."""
        while True:
            number = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(number, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(number), self._lock.stat()):
                    return number
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(number)
                raise
            os.close(number)

    def _read(self) -> tuple[list[Entry], int]:
        """Return the entries and the number that is expected; zeros if there is no such file.

        What others may have written is ignored, so that it does not become an entry of this user.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return [], 0
                members: Any = json.load(file)
            return list(members[_SERVERS]), int(members[_N_SERVERS])
        except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError):
            return [], 0

    def _write(self, servers: list[Entry], n_servers: int) -> None:
        content = json.dumps({_N_SERVERS: n_servers, _SERVERS: servers}, indent=2) + "\n"
        number, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        new = Path(name)  # mode 0600
        try:
            with os.fdopen(number, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except BaseException:
            new.unlink()
            raise


def _is_elsewhere(other: Any, entry: Entry) -> bool:
    """Return True for the entry of a server at other addresses."""
    if not isinstance(other, dict) or not any(name in other for name in _URLS):
        return False
    return not any(name in entry and other.get(name) == entry[name] for name in _URLS)


def _listening(entries: list[Entry]) -> list[Entry]:
    """Return the entries of the servers that listen at their addresses."""
    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        are_there = list(pool.map(_listens, entries))
    return [entry for entry, is_there in zip(entries, are_there, strict=True) if is_there]


def _listens(entry: Entry) -> bool:
    url = next(entry[name] for name in _URLS if name in entry)
    try:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), _PATIENCE_S):
            return True
    except (OSError, TypeError, ValueError, AttributeError):
        return False
