"""Files of keys for tests."""

import contextlib
import io

from twinforce_service.callers import command


def run_keys(path, *arguments):
    """Run `twinforce-server keys`; return its exit code and what it wrote."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        status = command.run([*arguments, "--file", str(path)], "")
    return status, written.getvalue()


def add_key(path, name, *options):
    """Add a key to a file and return its text."""
    status, written = run_keys(path, "add", name, *options)
    assert status == 0, written
    return written.strip()
