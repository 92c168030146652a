"""The command `twinforce-socket`."""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io

from twinforce._client import Client
from twinforce._systems import has_periodic_volume, system_of
from twinforce._transports.url import default_url
from twinforce.socket_bridge.bridge import Forwarding
from twinforce.socket_bridge.endpoint import Endpoint, without_delay
from twinforce_proto import ServiceError

_RETRY_S = 0.1
_EPILOG = """\
example:
  twinforce-socket start.xyz --connect unix:water --connections 8

The program on the other side moves the atoms: i-PI with <ffsocket>, ASE with SocketIOCalculator."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 once all programs have ended, 1 after a failure."""
    options = _parser().parse_args(arguments)
    try:
        with Client(options.url, timeout=options.timeout) as client:
            sys.exit(_run(options, _forwarding(options, client)))
    except (ServiceError, OSError, ValueError) as error:
        sys.exit(_report(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _forwarding(options: argparse.Namespace, client: Client) -> Forwarding:
    system = system_of(ase.io.read(options.file))
    has_virial = has_periodic_volume(system) and not options.no_virial
    info = client.model(options.model)
    return Forwarding(client, info, system, options.forces, has_virial)


def _run(options: argparse.Namespace, forwarding: Forwarding) -> int:
    endpoint = Endpoint.parse(options.listen or options.connect)
    if options.listen is not None:
        return _listen(endpoint, forwarding)
    statuses = [1] * options.connections  # a thread that dies leaves its failure

    def connect(index: int) -> None:
        statuses[index] = _guarded(lambda: _connect(endpoint, options.wait, forwarding))

    threads = [
        threading.Thread(target=connect, args=(index,), daemon=True)
        for index in range(options.connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(statuses)


def _connect(endpoint: Endpoint, wait_s: float, forwarding: Forwarding) -> None:
    """Answer a program that listens, or will within the given time."""
    until = time.monotonic() + wait_s
    while True:
        try:
            connected = endpoint.connect()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(_RETRY_S)
        else:
            forwarding.serve(connected)
            return


def _listen(endpoint: Endpoint, forwarding: Forwarding) -> int:
    """Answer every program that connects, each in a thread, until the process is ended."""
    with endpoint.listen() as listening:
        try:
            sys.stderr.write("twinforce-socket: ready\n")
            sys.stderr.flush()
            while True:
                connected = without_delay(listening.accept()[0])
                threading.Thread(
                    target=_guarded, args=(lambda to=connected: forwarding.serve(to),), daemon=True
                ).start()
        finally:
            endpoint.remove()


def _guarded(act: Callable[[], object]) -> int:
    """Act; report an error, and return the exit status."""
    try:
        act()
    except (ServiceError, OSError, ValueError) as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    sys.stderr.write(f"twinforce-socket: {type(error).__name__}: {error}\n")
    return 1


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "twinforce-socket",
        description="Answer programs that speak the socket protocol of i-PI from a service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "file", type=Path, help="structure with the elements in the program's order, any ASE format"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--connect", metavar="ADDRESS", help="program that listens: HOST:PORT or unix:NAME"
    )
    where.add_argument("--listen", metavar="ADDRESS", help="address at which programs connect")
    add(
        "--connections",
        type=_whole,
        default=1,
        metavar="N",
        help="connections, such as one per bead",
    )
    add("--wait", type=_seconds, default=60.0, metavar="S", help="seconds to wait for the program")
    add("--url", default=default_url(), help="address of the service (default: %(default)s)")
    add("--model", metavar="NAME", help="model to use (default: the only one, else water)")
    add("--forces", default="conservative", choices=("conservative", "direct"))
    add("--no-virial", action="store_true", help="do not compute virials of periodic structures")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds that a request may take")
    return parser


if __name__ == "__main__":
    main()
