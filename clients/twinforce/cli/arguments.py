"""Options and types of arguments that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from twinforce._options import time_limit
from twinforce._transports.access import KEY_FILE_VARIABLE, KEY_VARIABLE
from twinforce._transports.url import DEFAULT_URL, URL_VARIABLE, default_url


def add_command(
    commands: Any, name: str, arguments: str, *, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a command to the command line and return its parser.

    Args:
        commands: The subparsers to add to.
        name: Name of the command.
        arguments: Positional arguments, as shown in the usage line.
        summary: Lowercase phrase that says what the command does.
        example: A complete command line, shown at the end of the help.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"twinforce {name} [options] {arguments}",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_service_options(parser: argparse.ArgumentParser) -> Any:
    """Add the options that say where the service is and how long to wait for it, as a group."""
    group = parser.add_argument_group("service")
    group.add_argument(
        "--url",
        default=default_url(),
        help="address of the service, grpc:// or http:// "
        f"(default: {DEFAULT_URL}, or {URL_VARIABLE})",
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="time limit of one request, in s, or none (default: %(default)g)",
    )
    group.add_argument(
        "--reconnect-timeout",
        type=seconds,
        default="timeout",
        metavar="SECONDS",
        help="seconds for which a service that cannot be reached is tried again, or none "
        "(default: as many as --timeout)",
    )
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file of the key that the service asks for, read again for each call "
        f"(default: the key in {KEY_VARIABLE}, or the file in {KEY_FILE_VARIABLE})",
    )
    group.add_argument(
        "--insecure-key",
        action="store_true",
        default=None,
        help="send the key without TLS, too, where others may read it",
    )
    group.add_argument(
        "--ca", metavar="FILE", help="certificates to trust, in PEM (default: those of the system)"
    )
    group.add_argument("--certificate", metavar="FILE", help="certificate of the client, in PEM")
    group.add_argument("--private-key", metavar="FILE", help="private key of that certificate")
    return group


def service_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the client that the command line asks for."""
    names = ("timeout", "reconnect_timeout", "insecure_key", "ca", "certificate", "private_key")
    options = {name: getattr(args, name) for name in names}
    if args.key_file is not None:
        # An argument for the key itself would be seen in the list of processes.
        options["key"] = args.key_file
    return options


def add_file(group: Any, *, index: str, index_help: str) -> None:
    """Add the file to read and the selection of systems in it."""
    group.add_argument("file", type=Path, metavar="FILE", help="file to read, in any ASE format")
    group.add_argument("--index", default=index, help=index_help)


def add_model(group: Any) -> None:
    """Add the name of the model."""
    group.add_argument(
        "--model",
        metavar="NAME",
        help="model to use (default: the only one that is served, else water)",
    )


def add_hydrogen_mass(group: Any) -> None:
    """Add the option that repartitions masses."""
    group.add_argument(
        "--hydrogen-mass",
        type=positive(float),
        metavar="AMU",
        help="mass of each hydrogen, in amu, taken from the atom that it is bonded to "
        "(default: masses stay as they are)",
    )


def add_quiet(group: Any) -> None:
    """Add the option that silences everything but warnings and errors."""
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="show no progress and no summary, only warnings and errors",
    )


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return an `argparse` type for positive numbers of a kind."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def seconds(text: str) -> float | Literal["timeout"] | None:
    """Convert a time limit in s, or `none`; `timeout` is a default that stays as it is."""
    if text == "timeout":
        return "timeout"
    value = None if text.lower() == "none" else float(text)
    try:
        return time_limit("limit", value)
    except ValueError as error:
        expected = "expected a positive number of seconds, none or inf"
        raise argparse.ArgumentTypeError(f"{expected}, got {text}") from error


def non_negative(text: str) -> int:
    """Convert an argument to a whole number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text}")
    return value
