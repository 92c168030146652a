"""A process that ends its child when its parent is gone, however that ended.

    python guard.py COMMAND ...

The parent holds the other end of the standard input. When that closes, the child is asked to
stop, and killed if it has not stopped 20 s later. This file is run as a script and imports nothing
but the standard library, so that it starts at once.
"""

import os
import subprocess
import sys
import threading

_GRACE_S = 20.0


def main() -> int:
    """Run the command; return its exit status, negative if a signal ended it."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    return child.wait()


def _end_with_parent(child: "subprocess.Popen[bytes]") -> None:
    os.read(0, 1)  # until the parent closes its end or dies
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    # An exit status is a byte; a signal becomes 128 plus its number, as in a shell.
    status = main()
    sys.exit(status if status >= 0 else 128 - status)
