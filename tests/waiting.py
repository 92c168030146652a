"""A wait for what another thread or process brings about."""

import time


def wait_until(condition, seconds=120.0):
    """Return once a condition holds; fail after a while."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at
        time.sleep(0.002)
