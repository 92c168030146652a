"""The address file, in which servers say where they are and which key they ask for.

Clients are given its path in place of a URL, as in `Client("file:~/.twinforce/job-123.json")`, and
read it again when they cannot reach the service.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Entry: TypeAlias = dict[str, str]
"""What the file says of one server: `grpc` and `rest`, its URLs, `key` and `ca`."""

_SERVERS, _N_SERVERS = "servers", "n_servers"


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
        """Add a server; entries of a job before, which had all its servers, are dropped.

        Raises:
            OSError: The file cannot be written.
        """
        with self._locked():
            servers, n_servers = self._read()
            if len(servers) >= n_servers:
                servers, n_servers = [], self._n_servers
            self._write([*servers, entry], n_servers)

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

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one server at a time change the file, by a lock that holds on shared folders too."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(
            self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def _read(self) -> tuple[list[Entry], int]:
        """Return the entries and the number that is expected; zeros if there is no such file."""
        try:
            members: Any = json.loads(self._path.read_bytes())
            return list(members[_SERVERS]), int(members[_N_SERVERS])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
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
