"""The load: a process whose threads each do one kind of thing again and again, at a fixed pace."""

import itertools
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx2
import numpy as np

from tests.fuzz.messages import MESSAGES, body_of, changed_bytes
from tests.fuzz.sending import call
from tests.soak.service import MODEL
from tests.systems import crystal, molecule
from twinforce import Client, Integrator, Start

PATIENCE = 60.0
# Steps after which a walker begins anew, with another system and over another stream.
_N_STEPS = 200
_DT = 0.02


@dataclass(frozen=True)
class Access:
    """What a client needs to use the service.

    Attributes:
        urls: Addresses of gRPC and REST.
        key: The key.
        ca: File of the authority.
    """

    urls: tuple[str, str]
    key: str
    ca: str

    def client(self, number: int = 0) -> Client:
        """Return a client of gRPC or REST by turns."""
        return Client(self.urls[number % 2], key=self.key, ca=self.ca, timeout=PATIENCE)

    @property
    def rest(self) -> str:
        """Address of REST."""
        return self.urls[1]

    def http(self, **options: object) -> httpx2.Client:
        """Return a client of HTTP without a key."""
        context = ssl.create_default_context(cafile=self.ca)
        return httpx2.Client(base_url=self.rest, verify=context, timeout=PATIENCE, **options)


class Activity:
    """Something that is done once per period until the end.

    Args:
        name: Name for the counts.
        period: Seconds from one beginning to the next, if it takes less.
        make: Returns a context manager of what to do each time.
    """

    def __init__(
        self, name: str, period: float, make: Callable[[], Iterator[Callable[[], object]]]
    ):
        self.name, self.period = name, period
        self._make = contextmanager(make)

    def run(self, until: float, counts: "Counter[str]", errors: list[str]) -> None:
        """Do it until the end, and count; what was not expected is an error."""
        while time.monotonic() < until:
            try:
                with self._make() as do:
                    self._repeat(do, until, counts)
            except Exception as error:
                errors.append(f"{self.name}: {type(error).__name__}: {error}"[:500])
                time.sleep(1.0)

    def _repeat(self, do: Callable[[], object], until: float, counts: "Counter[str]") -> None:
        while (begin := time.monotonic()) < until:
            do()
            counts[self.name] += 1
            time.sleep(max(0.0, min(begin + self.period, until) - time.monotonic()))


def activities(access: Access) -> list[Activity]:
    """Return all that is done at once."""
    return [
        *(Activity("steps of walkers", 0.5, _walk(access, number)) for number in range(4)),
        *(Activity("single systems", 1.0, _ask(access, number, 1)) for number in range(2)),
        *(Activity("batches of 16 systems", 6.0, _ask(access, number, 16)) for number in range(2)),
        *(Activity("propagations", 10.0, _propagate(access, number)) for number in range(2)),
        *(Activity("relaxations", 10.0, _relax(access, number)) for number in range(2)),
        Activity("connections that vanish", 2.0, _hang_up(access)),
        Activity("processes that vanish", 60.0, _vanish(access)),
        Activity("malformed bodies", 1.0, _malform(access)),
        Activity("malformed messages", 1.0, _malform_messages(access)),
        Activity("wrong keys", 15.0, _guess(access)),
        Activity("new clients", 5.0, _come_and_go(access)),
    ]


def run_all(access: Access, seconds: float) -> tuple[dict[str, int], list[str]]:
    """Do all activities, each in a thread; return how often each was done, and errors."""
    counts: Counter[str] = Counter()
    errors: list[str] = []
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=each.run, args=[until, counts, errors], daemon=True)
        for each in activities(access)
    ]
    for thread in threads:
        thread.start()
        time.sleep(min(0.1, seconds / 100))  # so that they do not ask all at once
    for thread in threads:
        thread.join(seconds + 2 * PATIENCE)
    errors += ["a client hangs" for thread in threads if thread.is_alive()]
    return dict(counts), errors


def _walk(access: Access, number: int):
    """Return the steps of a walker, which begins anew again and again."""

    def make():
        with access.client(number) as client:
            steps = steps_of(client, number)
            yield lambda: next(steps)

    return make


def steps_of(client: Client, number: int) -> Iterator[None]:
    for seed in itertools.count(number):
        system = crystal(27, seed=seed)
        velocities = np.zeros_like(system.positions)
        with client.stream(model=MODEL) as stream:
            for _ in range(_N_STEPS):
                forces = stream.predict(system).conservative_forces
                velocities = velocities + _DT * forces
                system = system.moved(system.positions + _DT * velocities)
                yield


def _ask(access: Access, number: int, n_systems: int):
    systems = [crystal(27, seed=seed) for seed in range(n_systems)]

    def make():
        with access.client(number) as client:
            yield lambda: client.predict(systems, "hybrid", model=MODEL)

    return make


def _propagate(access: Access, number: int):
    start = Start(crystal(27), np.zeros((27, 3)), Integrator(inner_steps=2), random=number)

    def make():
        with access.client(number) as client:
            yield lambda: list(client.propagate(start, 100, 20, model=MODEL))

    return make


def _relax(access: Access, number: int):
    system = crystal(27, seed=number)

    def make():
        with access.client(number) as client:
            yield lambda: list(client.relax(system, fmax=1e-3, max_steps=50, model=MODEL))

    return make


def _come_and_go(access: Access):
    numbers = itertools.count()

    def once() -> None:
        with access.client(next(numbers)) as client:
            client.predict(molecule(), model=MODEL)

    def make():
        yield once

    return make


def _hang_up(access: Access):
    """Return connections that end in the middle of a request, or before its reply."""
    context = ssl.create_default_context(cafile=access.ca)
    host, port = urlsplit(access.rest).hostname or "", urlsplit(access.rest).port
    body = b'{"systems": [{"atomic_numbers": [18], "positions": [[0.0, 0.0, 0.0]]}]}'
    head = (
        f"POST /v1/models/{MODEL}/predict HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {access.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    ends = itertools.cycle([len(head) // 2, len(head) + 20, len(head) + len(body)])

    def once() -> None:
        with (
            socket.create_connection((host, port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall((head + body)[: next(ends)])

    def make():
        yield once

    return make


def _vanish(access: Access):
    """Return processes with a walker and a run that end without a word."""

    def once() -> None:
        command = [sys.executable, "-m", "tests.soak.vanishing", *access.urls, access.ca]
        done = subprocess.run(command, input=access.key, text=True, check=False, timeout=PATIENCE)
        if done.returncode != 1:
            raise RuntimeError(f"expected exit code 1, got {done.returncode}")

    def make():
        yield once

    return make


def _malform(access: Access):
    chance = random.Random(1)

    def make():
        with access.http(headers={"authorization": f"Bearer {access.key}"}) as http:

            def once() -> None:
                path = chance.choice(["predict", "nonconservativity", "propagate", "relax"])
                body, media_type = body_of(path, chance)
                headers = {"content-type": media_type}
                reply = http.post(f"/v1/models/{MODEL}/{path}", content=body, headers=headers)
                if reply.status_code == 503:
                    raise RuntimeError(reply.text)

            yield once

    return make


def _malform_messages(access: Access):
    chance = random.Random(2)

    def make():
        credentials = grpc.ssl_channel_credentials(Path(access.ca).read_bytes())
        with grpc.secure_channel(urlsplit(access.urls[0]).netloc, credentials) as channel:

            def once() -> None:
                method = chance.choice(sorted(MESSAGES))
                message = changed_bytes(MESSAGES[method].SerializeToString(), chance)
                outcome, details = call(channel, method, message, access.key)
                may_be_long = method in ("Propagate", "Relax")
                is_late = outcome == "DEADLINE_EXCEEDED" and not may_be_long
                if is_late or outcome in ("UNAVAILABLE", "UNAUTHENTICATED"):
                    raise RuntimeError(f"{outcome}: {details}")

            yield once

    return make


def _guess(access: Access):
    def once() -> None:
        with access.http(headers={"authorization": "Bearer tf_0123456789_" + 43 * "x"}) as http:
            status = http.get("/v1/models").status_code
            if status not in (401, 429):
                raise RuntimeError(f"expected 401 or 429 for a wrong key, got {status}")

    def make():
        yield once

    return make
