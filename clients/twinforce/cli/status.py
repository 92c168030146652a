"""`twinforce status`: tell what the service is, what it serves, and how busy it is."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from twinforce._client import Client
from twinforce._transports.transport import MisdirectedError
from twinforce.cli.arguments import add_command, add_service_options, positive, service_options
from twinforce.cli.columns import aligned
from twinforce.cli.models import elements_of
from twinforce.cli.progress import duration, suggest
from twinforce_proto import (
    DeadlineExceededError,
    ModelInfo,
    ModelStatus,
    ServiceStatus,
    UnavailableError,
)

# Exit status if the service answers and accepts no requests.
NOT_READY = 1
# A person waits for the answer, and for a service that is away no longer than this.
_TIMEOUT_S = 10.0
_CLEAR = "\033[H\033[2J"
_Report = dict[str, Any]


def add_status_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "status",
        "[URL]",
        summary="tell whether the service is ready, what it serves and how busy it is",
        example="twinforce status grpc://127.0.0.1:8001 --watch",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="write JSON instead of text")
    output.add_argument(
        "--watch", action="store_true", help="look again and again, until interrupted"
    )
    output.add_argument(
        "--interval",
        type=positive(float),
        default=1.0,
        metavar="SECONDS",
        help="time between two looks, over which rates are taken (default: %(default)g)",
    )
    service = add_service_options(parser)
    service.add_argument("address", nargs="?", metavar="URL", help="the same as --url URL")
    parser.set_defaults(command=_run, timeout=_TIMEOUT_S)


def _run(args: argparse.Namespace) -> int:
    args.url = args.address or args.url
    with Client(args.url, **service_options(args)) as client:
        looks = _Looks(client, args.url, rides_through_outages=args.watch)
        looks.report()
        while True:
            time.sleep(args.interval)
            report = looks.report()
            _show(report, args)
            if not args.watch:
                break
    if not args.json:
        suggest(args, *_next_commands(report))
    return 0 if report["is_ready"] else NOT_READY


class _Looks:
    """Looks at a service, each of which another process may answer."""

    def __init__(self, client: Client, url: str, *, rides_through_outages: bool) -> None:
        self._client = client
        self._url = url
        self._rides_through_outages = rides_through_outages
        self._last: dict[str, ServiceStatus] = {}

    def report(self) -> _Report:
        """Return what is now, and rates since the last look that the same process answered.

        Raises:
            UnavailableError: Nobody answers, and outages are not ridden through or the address
                is wrong.
            DeadlineExceededError: The answer takes too long, and outages are not ridden through.
        """
        try:
            now, infos = self._client.status(), self._client.models()
        except (UnavailableError, DeadlineExceededError) as error:
            has_wrong_address = isinstance(error, MisdirectedError) and not self._last
            if has_wrong_address or not self._rides_through_outages:
                raise
            return {"url": self._url, "is_ready": False, "error": str(error)}
        before = self._last.get(now.start_id)
        self._last[now.start_id] = now
        return report_of(self._url, infos, before, now)


def _show(report: _Report, args: argparse.Namespace) -> None:
    if args.json:
        text = json.dumps(report, indent=None if args.watch else 2)
    else:
        text = text_of(report)
        if args.watch:
            text = _CLEAR + text if sys.stdout.isatty() else text + "\n"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _next_commands(report: _Report) -> Sequence[Sequence[str]]:
    if not report["is_ready"]:
        return [["status", "--watch"]]
    return [["bench", "FILE", "--model", each["name"]] for each in report["models"][:1]]


def report_of(
    url: str, infos: Iterable[ModelInfo], before: ServiceStatus | None, now: ServiceStatus
) -> _Report:
    """Return what is now, and rates since the time before, as JSON values; None if not known.

    Args:
        url: Address of the service.
        infos: Descriptions of its models.
        before: An earlier state, if there is one; without effect if another process told it.
        now: The state to report.
    """
    if before is None or before.start_id != now.start_id:
        before = now
    seconds = now.uptime_s - before.uptime_s
    described = {info.name: info for info in infos}
    models = [
        _described(described.get(each.name)) | asdict(each) | _rates(past, each, seconds)
        for past, each in _pairs(before.models, now.models)
    ]
    callers = [
        asdict(each) | {"device_share": _rate("device_s", past, each, seconds)}
        for past, each in _pairs(before.callers, now.callers)
    ]
    rates = [each["evaluations_per_s"] for each in models]
    total = {"evaluations_per_s": None if None in rates else sum(rates)}
    return {"url": url} | asdict(now) | total | {"models": models, "callers": callers}


def _pairs(before: Iterable[Any], now: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    """Yield each object with that of the same name before; None if there was none."""
    past = {each.name: each for each in before}
    return ((past.get(each.name), each) for each in now)


def _described(info: ModelInfo | None) -> _Report:
    if info is None:
        return {}
    names = ("version", "architecture", "elements", "dtype", "device", "outputs")
    return {name: getattr(info, name) for name in names}


def _rates(before: ModelStatus | None, now: ModelStatus, seconds: float) -> _Report:
    counts = {
        "evaluations_per_s": "n_evaluations",
        "atoms_per_s": "n_atoms",
        "device_busy": "device_s",
    }
    return {rate: _rate(count, before, now, seconds) for rate, count in counts.items()}


def _rate(count: str, before: Any, now: Any, seconds: float) -> float | None:
    """Return the growth of a count per second; None if it or the time is not known."""
    first, last = 0 if before is None else getattr(before, count), getattr(now, count)
    if seconds <= 0 or first is None or last is None:
        return None
    return float(last - first) / seconds


def text_of(report: _Report) -> str:
    """Return a report as text: the service, its models, their load, devices and callers."""
    if "error" in report:
        return f"no answer: {report['error']}"
    state = "ready" if report["is_ready"] else "NOT READY" if report["is_alive"] else "FAILED"
    parts = [
        f"TwinForce {report['version']} at {report['url']} is {state}, "
        f"up for {duration(report['uptime_s'])}"
    ]
    if report["models"]:
        parts.append(_models(report["models"]))
    if counted := [each for each in report["models"] if each["n_evaluations"] is not None]:
        parts.append(_load(counted))
    waiting, atoms, runs = (report[name] for name in ("n_waiting", "n_waiting_atoms", "n_runs"))
    parts.append(
        f"{_shown(report['evaluations_per_s'], '.1f')} evaluations/s; waiting: {waiting} systems "
        f"of {atoms} atoms; runs under way: {runs}; engines restarted: {report['n_restarts']}"
    )
    if report["devices"]:
        parts.append(_devices(report["devices"]))
    if report["callers"]:
        parts.append(_callers(report["callers"]))
    return "\n\n".join(parts)


def _models(models: Iterable[_Report]) -> str:
    header = ("model", "state", "architecture", "elements", "dtype", "device", "runs in", "forces")
    return aligned([header, *map(_model, models)])


def _model(model: Mapping[str, Any]) -> tuple[str, ...]:
    outputs = model.get("outputs", ())
    kinds = [each for each in ("conservative", "direct") if f"{each}_forces" in outputs]
    return (
        model["name"],
        "ready" if model["is_available"] else "loading",
        model.get("architecture", ""),
        elements_of(model.get("elements", ())),
        model.get("dtype", ""),
        model.get("device", ""),
        " + ".join(model["environments"]),
        ", ".join(kinds),
    )


def _load(models: Iterable[_Report]) -> str:
    header = ("model", "evaluations", "per s", "atoms/s", "per batch", "fill", "busy")
    rows = (
        (
            each["name"],
            str(each["n_evaluations"]),
            _shown(each["evaluations_per_s"], ".1f"),
            _shown(each["atoms_per_s"], ".0f"),
            f"{each['n_evaluations'] / max(each['n_batches'], 1):.1f}",
            f"{each['batch_fill']:.0%}",
            _shown(each["device_busy"], ".0%"),
        )
        for each in models
    )
    return aligned([header, *rows])


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _devices(devices: Iterable[_Report]) -> str:
    names = ("used", "reserved", "free")
    rows = (
        (each["name"], *(f"{each[f'{name}_bytes'] / 1e9:.1f} GB" for name in names))
        for each in devices
    )
    return aligned([("memory", *names), *rows])


def _callers(callers: Iterable[_Report]) -> str:
    header = ("caller", "evaluations", "atoms", "device s", "share now")
    rows = (
        (
            each["name"],
            str(each["n_evaluations"]),
            str(each["n_atoms"]),
            f"{each['device_s']:.1f}",
            _shown(each["device_share"], ".0%"),
        )
        for each in sorted(callers, key=lambda each: -each["device_s"])
    )
    return aligned([header, *rows])
