"""Files that may be replaced while the service runs, such as keys and certificates."""

from collections.abc import Sequence
from pathlib import Path


class WatchedFiles:
    """Files whose replacement or change is noticed; links are followed, which mounted secrets are.

    Args:
        paths: Paths of the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen = self._versions()

    def have_changed(self) -> bool:
        """Return True if a file is another one than at the last call, or at construction."""
        before, self._seen = self._seen, self._versions()
        return self._seen != before

    def _versions(self) -> list[tuple[int, ...] | None]:
        return [_version(path) for path in self._paths]


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
