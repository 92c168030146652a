"""The faults: each is done to a running service while its clients work."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.clients import flood, vanish
from tests.chaos.envoy import Envoy
from tests.chaos.haproxy import HAProxy
from tests.chaos.network import Network
from tests.chaos.proxy import Proxy
from tests.chaos.service import Service
from tests.potentials import NEON
from tests.service.troubled import HELIUM
from tests.systems import molecule
from twinforce import Client, FatalSystemError, ServiceError


@dataclass(frozen=True)
class Attacked:
    """A service under attack.

    Attributes:
        service: The service, or one of its replicas.
        network: The network between it and its clients, if it is one of our own.
        others: The other replicas.
        proxy: The proxy before them, if there is one.
    """

    service: Service
    network: Network | None = None
    others: tuple[Service, ...] = ()
    proxy: Proxy | None = None

    @property
    def urls(self) -> tuple[str, str]:
        """Addresses for clients over both transports, which name all replicas or the proxy."""
        if self.proxy is not None:
            return self.proxy.urls
        first, *others = (each.urls for each in (self.service, *self.others))
        grpc, rest = (
            ",".join([url, *(each[n].partition("://")[2] for each in others)])
            for n, url in enumerate(first)
        )
        return grpc, rest


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: Description for the table.
        inject: Does it, and returns a note for the table once it is over.
        is_short: True if it is a part of the short selection.
        needs_network: True if it needs a network of our own.
        n_replicas: Number of replicas of the service.
        proxy: Proxy before three of them, which clients know alone, if there is one.
    """

    name: str
    inject: Callable[[Attacked], str]
    is_short: bool = False
    needs_network: bool = False
    n_replicas: int = 1
    proxy: type[Proxy] | None = None


def _kill_engine(attacked: Attacked) -> str:
    service = attacked.service
    for _ in range(3):
        (engine,) = service.engines()
        os.kill(engine, signal.SIGKILL)
        service.wait_until_ready(since=engine)
        time.sleep(0.5)
    return "three times"


def _stop_engine(attacked: Attacked) -> str:
    service = attacked.service
    (engine,) = service.engines()
    os.kill(engine, signal.SIGSTOP)
    noticed = service.wait_until_not_ready()
    service.wait_until_ready(since=engine)
    return f"not ready after {noticed:.1f} s"


def _hang(attacked: Attacked) -> str:
    service = attacked.service
    with Client(service.urls[0], timeout=120.0) as client:
        client.predict(molecule(element=HELIUM), model="troubled")
        (engine,) = service.engines()
        service.close_gate()
        asking = threading.Thread(
            target=client.predict, args=[molecule(element=HELIUM)], kwargs={"model": "troubled"}
        )
        asking.start()
        noticed = service.wait_until_not_ready()
        service.open_gate()
        service.wait_until_ready(since=engine)
        asking.join(120.0)
    return f"not ready after {noticed:.1f} s"


def _poison(attacked: Attacked) -> str:
    before = attacked.service.engines()
    poison = molecule(4, element=NEON, seed=os.getpid())
    with Client(attacked.service.urls[1], timeout=120.0) as client:
        for attempt in (1, 2):
            try:
                client.predict(poison, model="troubled")
            except FatalSystemError:
                if attempt == 1:
                    attacked.service.wait_until_ready()
                    before = attacked.service.engines()
    is_kept = attacked.service.engines() == before
    return "refused, then harmless" if is_kept else "not refused"


def _overload(attacked: Attacked) -> str:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        found = pool.starmap(flood, [(url, 6.0) for url in attacked.service.urls])
    n_answered, n_refused = (sum(each) for each in zip(*found, strict=True))
    return f"{n_answered} calls of 64 systems answered, {n_refused} gave up"


def _vanish(attacked: Attacked) -> str:
    context = multiprocessing.get_context("spawn")
    gone = context.Process(target=vanish, args=[attacked.service.urls, 16, 4.0])
    gone.start()
    gone.join(60.0)
    return "32 clients, killed after 4 s"


def _kill_server(attacked: Attacked) -> str:
    attacked.service.restart(signal.SIGKILL, pause=2.0)
    attacked.service.wait_until_ready()
    return "down for 2 s besides its start"


def _restart_server(attacked: Attacked) -> str:
    process = attacked.service.process
    attacked.service.restart(signal.SIGTERM, pause=0.0)
    attacked.service.wait_until_ready()
    return f"exit code {process.returncode}"


def _restart_replicas(attacked: Attacked) -> str:
    codes = []
    for service in (attacked.service, *attacked.others):
        process = service.process
        service.restart(signal.SIGTERM, pause=0.0)
        service.wait_until_ready()
        codes.append(process.returncode)
    return f"one after the other, exit codes {', '.join(map(str, codes))}"


def _kill_replica(attacked: Attacked) -> str:
    attacked.service.process.kill()
    attacked.service.process.wait()
    return "and it stays away"


def _hang_replica(attacked: Attacked) -> str:
    attacked.service.process.send_signal(signal.SIGSTOP)
    time.sleep(15.0)
    attacked.service.process.send_signal(signal.SIGCONT)
    return "for 15 s"


def _reload_proxy(attacked: Attacked) -> str:
    assert attacked.proxy is not None
    for _ in range(2):
        attacked.proxy.reload()
    return "twice"


def _cut(attacked: Attacked) -> str:
    assert attacked.network is not None
    attacked.network.cut(8.0)
    return "for 8 s"


def _lose(attacked: Attacked) -> str:
    assert attacked.network is not None
    with attacked.network.losing(5.0):
        time.sleep(8.0)
    return "5% for 8 s"


def try_one(call: Callable[[Attacked], str], attacked: Attacked) -> str:
    """Do something to a service; return its note, or the error of the service."""
    try:
        return call(attacked)
    except ServiceError as error:
        return f"{type(error).__name__}: {error}"


FAULTS = (
    Fault("kill -9 of the engine", _kill_engine, is_short=True),
    Fault("SIGSTOP of the engine", _stop_engine, is_short=True),
    Fault("a batch that never ends", _hang),
    Fault("a system that ends engines", _poison, is_short=True),
    Fault("overload by other clients", _overload),
    Fault("clients that vanish", _vanish),
    Fault("kill -9 of the server", _kill_server),
    Fault("SIGTERM of the server, new start", _restart_server, is_short=True),
    Fault("rolling restart of three replicas", _restart_replicas, n_replicas=3),
    Fault("kill -9 of one of three replicas", _kill_replica, n_replicas=3),
    *(
        Fault(name.format(proxy.__name__), inject, n_replicas=3, proxy=proxy)
        for proxy in (HAProxy, Envoy)
        for name, inject in (
            ("rolling restart behind {}", _restart_replicas),
            ("kill -9 of a replica behind {}", _kill_replica),
            ("SIGSTOP of a replica behind {}", _hang_replica),
            ("reload of {}", _reload_proxy),
        )
    ),
    Fault("partition of the network", _cut, needs_network=True),
    Fault("loss of packets", _lose, needs_network=True),
)
