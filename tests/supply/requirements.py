"""Print what an image installs, as requirements of pip, by the extra of the image.

That is its lock file, and PyTorch where it comes from an index of its own.
"""

import sys

from tests.supply.lock import TORCH
from tests.supply.packages import LOCKS, ROOT, pinned

_TORCH = "torch"


def requirements_of(extra: str) -> str:
    """Return the requirements of an image."""
    lock = LOCKS / f"{extra}.lock"
    return lock.read_text(encoding="utf-8") + ("" if _TORCH in dict(pinned(lock)) else _torch())


def _torch() -> str:
    """Return the requirement of PyTorch for the CPU, with hashes if they are known."""
    lock = LOCKS / f"{TORCH}.lock"
    if lock.exists():
        return lock.read_text(encoding="utf-8")
    return f"{_TORCH}=={dict(pinned(ROOT / 'constraints.txt'))[_TORCH]}\n"


if __name__ == "__main__":
    sys.stdout.write(requirements_of(sys.argv[1]))
