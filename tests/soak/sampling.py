"""Samples of what the service holds and how soon it answers, taken while it is under load."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from tests.soak.load import Access
from tests.soak.service import MODEL, Soaked, cpu_s, n_descriptors, resident_mb
from tests.systems import crystal

# Seconds between two requests of a probe, and between two looks at the processes.
_PROBE_S, _LOOK_S = 0.2, 1.0


@dataclass(frozen=True)
class Sample:
    """One part of the time.

    Attributes:
        minute: End of the part since the beginning, in minutes.
        server_mb: Resident memory of the server, the median over the part.
        engine_mb: Resident memory of the engine, likewise.
        server_files: Open files of the server, likewise.
        engine_files: Open files of the engine, likewise.
        polite_p50_ms: Median latency of one system at a time over gRPC.
        polite_p99_ms: The latency that one in a hundred exceeds.
        live_p50_ms: Median latency of `/health/live`.
        live_p99_ms: The latency that one in a hundred exceeds.
        machine_p99_ms: The same for sleeping a moment: what the machine itself is late by.
        cores: Cores that both processes have used.
    """

    minute: float
    server_mb: float
    engine_mb: float
    server_files: float
    engine_files: float
    polite_p50_ms: float
    polite_p99_ms: float
    live_p50_ms: float
    live_p99_ms: float
    machine_p99_ms: float
    cores: float

    def to_dict(self) -> dict[str, float]:
        """Return the sample as plain data."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


class Probe:
    """Does the same again and again in a thread, and notes how long each took.

    Args:
        ask: What to do.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._latencies: list[float] = []
        self.n_failed = 0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def taken(self) -> np.ndarray:
        """Return the latencies since the last call, in ms."""
        taken, self._latencies = self._latencies, []
        return 1000.0 * np.array(taken)

    def stop(self) -> None:
        """Let it end."""
        self._is_done.set()
        self._thread.join(60.0)

    def _run(self) -> None:
        while not self._is_done.wait(_PROBE_S):
            begin = time.perf_counter()
            try:
                self._ask()
            except Exception:
                self.n_failed += 1
            self._latencies.append(time.perf_counter() - begin)


def sample(
    service: Soaked, access: Access, seconds: float, part_s: float, show: Callable[[Sample], None]
) -> tuple[list[Sample], int]:
    """Return a sample of each part of the time, and how many probes failed."""
    samples = []
    with access.client() as client, access.http() as http:
        system = crystal(8)

        def live() -> None:
            http.get("/health/live").raise_for_status()

        probes = [
            Probe(lambda: client.predict(system, model=MODEL)),
            Probe(live),
            Probe(lambda: time.sleep(0.001)),
        ]
        pids, begin = (service.server_pid, service.engine_pid), time.monotonic()
        for number in range(round(seconds / part_s)):
            samples.append(_part(pids, probes, begin + part_s * (number + 1), begin))
            show(samples[-1])
        for probe in probes:
            probe.stop()
    return samples, sum(probe.n_failed for probe in probes)


def _part(pids: tuple[int, int], probes: list[Probe], until: float, begin: float) -> Sample:
    """Look at the processes until a time, and return what was seen."""
    started, cpu = time.monotonic(), sum(map(cpu_s, pids))
    looks = []
    while time.monotonic() < until:
        time.sleep(min(_LOOK_S, max(0.0, until - time.monotonic())))
        looks.append([*map(resident_mb, pids), *map(n_descriptors, pids)])
    polite, live, machine = (probe.taken() for probe in probes)
    used = (sum(map(cpu_s, pids)) - cpu) / (time.monotonic() - started)
    return Sample(
        (time.monotonic() - begin) / 60.0,
        *np.median(looks, axis=0).tolist(),
        *np.percentile(polite, [50, 99]).tolist(),
        *np.percentile(live, [50, 99]).tolist(),
        float(np.percentile(machine, 99)) - 1.0,
        used,
    )
