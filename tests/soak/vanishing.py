"""A process that walks and propagates, and ends without a word: with the key on standard input."""

import os
import sys
import threading
import time

import numpy as np

from tests.soak.load import Access, steps_of
from tests.soak.service import MODEL
from tests.systems import crystal
from twinforce import Integrator, Start

_AFTER_S = 3.0


def main() -> None:
    """Begin, and end."""
    grpc, rest, ca = sys.argv[1:]
    access = Access((grpc, rest), sys.stdin.read(), ca)
    threads = [
        threading.Thread(target=call, args=[access, number], daemon=True)
        for number in range(2)
        for call in (_walk, _propagate)
    ]
    for thread in threads:
        thread.start()
    time.sleep(_AFTER_S)
    os._exit(1 if all(thread.is_alive() for thread in threads) else 3)


def _walk(access: Access, number: int) -> None:
    with access.client(number) as client:
        for _ in steps_of(client, number):
            time.sleep(0.1)


def _propagate(access: Access, number: int) -> None:
    start = Start(crystal(27), np.zeros((27, 3)), Integrator(inner_steps=2), random=number)
    with access.client(number) as client:
        for _ in client.propagate(start, 10**5, 10, model=MODEL):
            time.sleep(0.1)


if __name__ == "__main__":
    main()
