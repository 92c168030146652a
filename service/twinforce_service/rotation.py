"""Files that may be replaced while the service runs, such as keys and certificates."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Seconds after which files that could not be used are read again, although they are the same: the
# reason may have been another one, such as too many open files.
_RETRY_S = 30.0


class WatchedFiles:
    """Files whose replacement or change is noticed; links are followed, which mounted secrets are.

    Args:
        paths: Paths of the files.
        clock: Returns the time, in s.
    """

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._retry_at = math.inf
        self._seen = self._versions()

    def have_changed(self) -> bool:
        """Return True if a file is another one than at the last call, or at construction.

        The result is True as well some time after a failure was noted.
        """
        before, self._seen = self._seen, self._versions()
        if self._seen == before and self._clock() < self._retry_at:
            return False
        self._retry_at = math.inf
        return True

    def note_failure(self) -> None:
        """Note that the files could not be used, so that they are tried again later."""
        self._retry_at = self._clock() + _RETRY_S

    def _versions(self) -> list[tuple[int, ...] | None]:
        return [_version(path) for path in self._paths]


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
