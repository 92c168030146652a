"""One client keeps many large calls in flight while a polite one asks for one system at a time.

    python -m tests.attacks.fairness --sleeping

Both come from one address without keys. The polite one is measured alone, then beside the other,
for each way in which either may call. With --sleeping, the device takes the time of a real one but
sleeps, so that other programs on the machine disturb the result less.
"""

import argparse
import multiprocessing
import re
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from twinforce import Client, Integrator, ServiceError, Start, System

WATER = Path(__file__).parents[2] / "demo" / "water64.xyz"
OUTPUTS = ("energy", "conservative_forces")
N_CALLS, N_SYSTEMS = 16, 32
# Ways of calling: (of the greedy client, of the polite one).
WAYS = [("grpc", "grpc"), ("grpc", "stream"), ("grpc", "rest"), ("rest", "grpc"), ("rest", "rest"),
        ("propagate", "stream")]  # fmt: skip


def water():
    """Return 64 molecules of liquid water."""
    lines = WATER.read_text().splitlines()
    cell = re.search(r'Lattice="([^"]*)"', lines[1])[1].split()
    rows = [line.split()[:4] for line in lines[2:]]
    numbers = [{"O": 8, "H": 1}[symbol] for symbol, *_ in rows]
    positions = np.array([place for _, *place in rows], dtype=float)
    return System(numbers, positions, np.reshape(np.array(cell, dtype=float), (3, 3)), pbc=True)


def argon():
    """Return 19 atoms of argon."""
    return System([18] * 19, 4.0 * np.argwhere(np.ones((19, 1, 1))), np.eye(3) * 100, pbc=False)


def sleep():
    """Serve a model whose evaluation takes 1 ms, and 0.7 ms per atom, without computing."""
    from tests.potentials import Soft, loaded
    from twinforce_service.embedded import run_in_thread
    from twinforce_service.settings import Settings

    class Sleeping(Soft):
        def forward_heads(self, batch, *, direct):
            time.sleep(0.001 + 0.0007 * len(batch.atomic_numbers))
            return super().forward_heads(batch, direct=direct)

    settings = Settings(rest_port=0, grpc_port=0, water=False)
    with run_in_thread(settings, lambda: {"argon": loaded(Sleeping(), "argon")}) as server:
        sys.stdout.write(f"ready\nREST {server.rest_url}\ngRPC {server.grpc_url}\n")
        sys.stdout.flush()
        threading.Event().wait()


@contextmanager
def service(*flags, is_sleeping):
    """Run a service, and yield its addresses by transport."""
    ports = ["--rest-port=0", "--grpc-port=0", "--n-threads=1"]
    command = [sys.executable, "-m", "twinforce_service.main", *ports, *flags]
    if is_sleeping:
        command = [sys.executable, "-c", "from tests.attacks import fairness; fairness.sleep()"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        yield {"rest": lines[1].split()[-1], "grpc": lines[2].split()[-1]}
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def n_evaluated(urls):
    """Return how many systems the service has evaluated."""
    with urllib.request.urlopen(f"{urls['rest']}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    return sum(map(float, re.findall(r"^twinforce_evaluations_total{.*} (.*)$", text, re.M)))


def _flood(urls, system, way, urgency, has_begun, stop):
    """Keep calls in flight until `stop` is set."""

    def loop(client):
        while not stop.is_set():
            with suppress(ServiceError):
                if way == "propagate":
                    start = Start(system, np.zeros((len(system), 3)), Integrator(inner_steps=1))
                    for _ in client.propagate(start, 1000, interval=1):
                        if stop.is_set():
                            break
                else:
                    client.predict([system] * N_SYSTEMS, OUTPUTS)

    url = urls["grpc" if way == "propagate" else way]
    n_loops = N_CALLS * N_SYSTEMS // 4 if way == "propagate" else N_CALLS
    with Client(url, urgency=urgency) as client:
        threads = [threading.Thread(target=loop, args=[client]) for _ in range(n_loops)]
        for each in threads:
            each.start()
        has_begun.set()
        for each in threads:
            each.join()


@contextmanager
def greedy(urls, system, way, urgency=3):
    """Keep calls in flight from another process."""
    context = multiprocessing.get_context("spawn")
    has_begun, stop = context.Event(), context.Event()
    arguments = urls, system, way, urgency, has_begun, stop
    process = context.Process(target=_flood, args=arguments)
    process.start()
    try:
        has_begun.wait(60)
        yield
    finally:
        stop.set()
        process.join(20)
        if process.is_alive():
            process.kill()


def waits(urls, system, way, seconds):
    """Return how long each of the calls of a polite client took within a time, in s."""
    found = []
    with ExitStack() as stack:
        client = stack.enter_context(Client(urls["rest" if way == "rest" else "grpc"]))
        walker = stack.enter_context(client.stream(outputs=OUTPUTS)) if way == "stream" else None
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or len(found) < 3:
            started = time.monotonic()
            if walker is None:
                client.predict(system, OUTPUTS)
            else:
                walker.predict(system)
            found.append(time.monotonic() - started)
    return found


def line(name, found):
    """Return a row of the table."""
    p50, p90, p99 = 1000 * np.percentile(found, [50, 90, 99])
    return f"{name:42} {p50:8.1f} {p90:8.1f} {p99:8.1f} {1000 * max(found):8.1f} {len(found):6}"


def show(text):
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measure(urls, system, seconds, urgency, ways):
    """Print what the polite client waits alone, and beside the other."""
    show(f"{'':42} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8} {'calls':>6}  (ms)")
    alone = {}
    for way in ("grpc", "stream", "rest"):
        waits(urls, system, way, 1.0)
        alone[way] = waits(urls, system, way, seconds / 2)
        show(line(f"{way}, alone", alone[way]))
    for bad, good in ways:
        with greedy(urls, system, bad, urgency):
            time.sleep(2.0)
            before, started = n_evaluated(urls), time.monotonic()
            found = waits(urls, system, good, seconds)
            n_others = n_evaluated(urls) - before - len(found)
            rate = n_others / (time.monotonic() - started)
        ratio = np.median(found) / np.median(alone[good])
        row = line(f"{good}, beside {bad}", found)
        show(f"{row} {ratio:6.1f} x, others {rate:.0f}/s")


def summary(seconds=10.0):
    """Return what a polite client over gRPC waits alone, and beside a greedy one, in ms.

    The device sleeps, so that the clients do not compete for the processor.
    """
    system = argon()
    with service(is_sleeping=True) as urls:
        waits(urls, system, "grpc", 1.0)
        alone = waits(urls, system, "grpc", seconds / 2)
        with greedy(urls, system, "grpc"):
            time.sleep(2.0)
            beside = waits(urls, system, "grpc", seconds)
    return {
        "alone_ms": round(1000 * float(np.median(alone)), 1),
        "beside_ms": round(1000 * float(np.median(beside)), 1),
        "worst_ms": round(1000 * max(beside), 1),
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each attack")
    parser.add_argument("--urgency", type=int, default=3, help="urgency of the greedy client")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="number of combinations")
    parser.add_argument("--sleeping", action="store_true", help="use a device that sleeps")
    parser.add_argument("flags", nargs="*", help="flags of the service, after --")
    arguments = parser.parse_args()
    system = argon() if arguments.sleeping else water()
    with service(*arguments.flags, is_sleeping=arguments.sleeping) as urls:
        measure(urls, system, arguments.seconds, arguments.urgency, WAYS[: arguments.ways])


if __name__ == "__main__":
    main()
