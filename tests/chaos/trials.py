"""Trials: clients work, a fault strikes, and all of them have to end as if it had not."""

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.clients import Load, Outcome, run_all, share_progress, walk_all
from tests.chaos.faults import Attacked, Fault, try_one
from tests.chaos.network import SERVER, Network, Unsupported
from tests.chaos.proxy import HOSTS
from tests.chaos.service import Service
from tests.ports import free_ports

# The fault strikes after this part of all steps.
_STRIKES_AT = 0.25
_N_WALKING = 2
# Seconds, and multiples of the time without a fault, after which a client counts as hung.
_SHORTEST_LIMIT, _PATIENCE = 150.0, 10.0


@dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
        fault: Name of the fault.
        n_clients: Number of clients.
        n_hung: Clients that had not ended after the limit.
        n_lost: Clients that ended with an error.
        n_wrong: Clients that ended elsewhere than without the fault.
        recovery_s: Longest time in which no client took a step, from the fault on, in s.
        pause_s: Longest time between two steps of one client, in s, if it was measured.
        seconds: Duration of the trial, in s.
        server_mb: Resident memory of the server afterwards, in MB.
        engine_mb: Resident memory of its engine afterwards, in MB.
        note: Further findings, errors of lost clients among them.
        skipped: Reason why the fault was not tried.
    """

    fault: str
    n_clients: int = 0
    n_hung: int = 0
    n_lost: int = 0
    n_wrong: int = 0
    recovery_s: float = 0.0
    pause_s: float | None = None
    seconds: float = 0.0
    server_mb: int = 0
    engine_mb: int = 0
    note: str = ""
    skipped: str = ""

    @property
    def is_good(self) -> bool:
        """True if no client hung, was lost or went astray."""
        return not (self.n_hung or self.n_lost or self.n_wrong)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return asdict(self)


class Clients:
    """The processes of the clients, which live through all trials.

    Args:
        load: The work of all clients of one trial.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        context = multiprocessing.get_context("spawn")
        self.progress = context.Value("Q", 0)
        self._pool = ProcessPoolExecutor(
            _N_WALKING + 1, context, initializer=share_progress, initargs=[self.progress]
        )

    def start(self, urls: tuple[str, str]) -> list["Future[dict[str, Outcome]]"]:
        """Start all clients."""
        self.progress.value = 0
        walking = [
            self._pool.submit(walk_all, urls, self.load, part, _N_WALKING)
            for part in range(_N_WALKING)
        ]
        return [*walking, self._pool.submit(run_all, urls, self.load)]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Trials:
    """One service after another, and the trajectories that its clients take without any fault."""

    def __init__(self, load: Load) -> None:
        self._clients = Clients(load)
        self._expected: Mapping[str, Outcome] = {}
        self._n_ticks = 0

    def undisturbed(self) -> Result:
        """Run all clients without a fault, which the other trials are compared with."""
        nothing = Fault("none", lambda _: "")
        result, outcomes = self._run(nothing, None)
        self._expected, self._n_ticks = outcomes, self._clients.progress.value
        # On a busy machine all takes longer, so that what hangs is told by how long it took before.
        limit = max(_SHORTEST_LIMIT, _PATIENCE * result.seconds)
        self._clients.load = replace(self._clients.load, limit=limit)
        return result

    def run(self, fault: Fault) -> Result:
        """Run all clients and let the fault strike, unless this machine does not allow it."""
        try:
            with ExitStack() as stack:
                network = None
                if fault.needs_network:
                    network = Network()
                    stack.callback(network.remove)
                    network.set_up()
                result, _ = self._run(fault, network)
                return result
        except Unsupported as reason:
            return Result(fault.name, skipped=str(reason))

    def close(self) -> None:
        """End the processes of the clients."""
        self._clients.close()

    def _run(self, fault: Fault, network: Network | None) -> tuple[Result, Mapping[str, Outcome]]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            host, prefix = (SERVER, network.prefix) if network else ("127.0.0.1", [])
            with ExitStack() as stack:
                replicas, proxy, ports = [], None, None
                if fault.proxy is not None:
                    ports = free_ports(HOSTS)
                    proxy = fault.proxy(Path(folder), ports)
                for number in range(fault.n_replicas):
                    path = Path(folder, str(number))
                    path.mkdir()
                    own = host if proxy is None else HOSTS[number]
                    replicas.append(Service(path, own, prefix, ports))
                    stack.callback(replicas[-1].stop)
                if proxy is not None:
                    stack.callback(proxy.stop)
                    proxy.start()
                first, *others = replicas
                return self._strike(fault, Attacked(first, network, tuple(others), proxy))

    def _strike(self, fault: Fault, attacked: Attacked) -> tuple[Result, Mapping[str, Outcome]]:
        began = time.monotonic()
        futures = self._clients.start(attacked.urls)
        while self._clients.progress.value < _STRIKES_AT * self._n_ticks:
            time.sleep(0.01)
        gap = Gap(self._clients.progress, futures)
        note = try_one(fault.inject, attacked)
        outcomes: dict[str, Outcome] = {}
        for future in futures:
            outcomes |= future.result(2 * self._clients.load.limit)
        seconds = time.monotonic() - began
        server_mb, engine_mb = (attacked.service, *attacked.others)[-1].memory()
        wrong = self._wrong(outcomes)
        lost = sorted({each.error for each in outcomes.values() if each.error})
        return Result(
            fault.name,
            n_clients=len(outcomes),
            n_hung=sum(each.found is None and not each.error for each in outcomes.values()),
            n_lost=sum(bool(each.error) for each in outcomes.values()),
            n_wrong=len(wrong),
            recovery_s=round(gap.longest(), 2),
            pause_s=round(max(each.pause_s for each in outcomes.values()), 2),
            seconds=round(seconds, 1),
            server_mb=server_mb,
            engine_mb=engine_mb,
            note="; ".join(filter(None, [note, *lost, *(f"{each} is wrong" for each in wrong)])),
        ), outcomes

    def _wrong(self, outcomes: Mapping[str, Outcome]) -> list[str]:
        """Return the clients that ended elsewhere than without a fault."""
        expected = self._expected.items()
        return sorted(name for name, theirs in expected if not outcomes[name].equals(theirs))


class Gap:
    """The longest time in which no client takes a step, until all are done.

    Args:
        progress: Number of steps of all clients.
        futures: Ends of the clients.
    """

    def __init__(self, progress: Any, futures: Sequence["Future[Any]"]) -> None:
        self._progress, self._futures = progress, futures
        self._longest = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def longest(self) -> float:
        """Return the time in s, once all clients are done."""
        self._thread.join()
        return self._longest

    def _watch(self) -> None:
        last, since = self._progress.value, time.monotonic()
        while not all(future.done() for future in self._futures):
            time.sleep(0.005)
            now, value = time.monotonic(), self._progress.value
            if value != last:
                self._longest = max(self._longest, now - since)
                last, since = value, now
