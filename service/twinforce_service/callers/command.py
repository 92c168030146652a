"""The command `twinforce-server keys`: make keys, list them and revoke them."""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from twinforce_service.callers.entry import (
    checked_models,
    checked_name,
    checked_share,
    parse_limits,
    parse_time,
)
from twinforce_service.callers.key_file import (
    Key,
    KeyFileEntry,
    KeyFileError,
    TokenRule,
    read_keys,
    write_keys,
)
from twinforce_service.callers.key_text import hash_of, new_key
from twinforce_service.callers.permission import CALLS, SCOPES, checked_scopes

_PROGRAM = "twinforce-server keys"


def run(arguments: Sequence[str], default_file: str) -> int:
    """Run the command with these arguments; return its exit code.

    Args:
        arguments: Arguments after `keys`.
        default_file: File of keys if the arguments name none; empty if there is no default.
    """
    parser = make_parser(default_file)
    given = parser.parse_args(arguments)
    if not given.file:
        parser.error("expected --file FILE or the environment variable TWINFORCE_KEYS")
    try:
        given.work(given, Path(given.file).expanduser())
    except (KeyFileError, ValueError) as error:
        sys.stderr.write(f"{_PROGRAM}: error: {error}\n")
        return 1
    return 0


def make_parser(default_file: str = "") -> argparse.ArgumentParser:
    """Return the parser of the arguments after `keys`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Keys of those who may use the service, in the file of --keys."
    )
    commands = parser.add_subparsers(required=True, metavar="add|list|revoke")
    for name, add in (("add", _add_add), ("list", _add_list), ("revoke", _add_revoke)):
        add(commands, name).add_argument(
            "--file",
            default=default_file,
            help="file of keys (default: that of the environment variable TWINFORCE_KEYS)",
        )
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_add(commands: _Commands, name: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help="make a key and print it, once",
        description="Make a key and print it. The file keeps only a hash of it, so that it cannot "
        "be shown again. A running service notices within a second.",
        epilog=f"example: {_PROGRAM} add alice --models water --expires 90d --file keys.json",
    )
    parser.add_argument("name", metavar="NAME", help="name of the key in logs and metrics")
    parser.add_argument(
        "--scope",
        action="append",
        metavar="SCOPE",
        help=f"what the key is for, of {', '.join(SCOPES)}; may be repeated "
        f"(default: {', '.join(CALLS)})",
    )
    parser.add_argument(
        "--models", metavar="NAME,...", help="models that the key is for (default: all)"
    )
    parser.add_argument(
        "--expires", metavar="TIME", help="time such as 2030-01-31 or 90d (default: never)"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of the device's time, relative to others (default: 1)",
    )
    parser.add_argument(
        "--may-be-urgent",
        action="store_true",
        help="let urgent requests go before those of others",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="limit of its own, such as max_runs=4; may be repeated (default: that of the service)",
    )
    parser.set_defaults(work=_add)
    return parser


def _add_list(commands: _Commands, name: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help="list the keys, without their texts")
    parser.set_defaults(work=_list)
    return parser


def _add_revoke(commands: _Commands, name: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help="remove a key",
        description="Remove a key. A running service refuses it within a second, and ends its "
        "streams and runs.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the key")
    parser.set_defaults(work=_revoke)
    return parser


def _add(given: argparse.Namespace, path: Path) -> None:
    key_id, text = new_key()
    key = Key(
        name=checked_name(given.name),
        id=key_id,
        hash=hash_of(text),
        scopes=checked_scopes(given.scope or CALLS),
        models=checked_models(given.models.split(",")) if given.models else None,
        share=checked_share(given.share),
        may_be_urgent=given.may_be_urgent,
        limits=parse_limits(given.limit),
        expires=parse_time(given.expires) if given.expires else None,
    )
    with _locked(path):
        keys = read_keys(path) if path.exists() else {}
        if key.name in keys:
            raise KeyFileError(f"{path}: there is a key {key.name!r} already; revoke it first")
        write_keys(path, [*keys.values(), key])
    sys.stdout.write(f"{text}\n")


def _list(_: argparse.Namespace, path: Path) -> None:
    now = datetime.now(UTC)
    rows: list[tuple[str, ...]] = [("NAME", "ID", "SCOPES", "MODELS", "SHARE", "EXPIRES")]
    rows += [_row(key, now) for key in read_keys(path).values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _row(key: KeyFileEntry, now: datetime) -> tuple[str, ...]:
    expires = "never" if key.expires is None else key.expires.isoformat(timespec="minutes")
    return (
        key.name,
        "tokens" if isinstance(key, TokenRule) else key.id,
        ",".join(sorted(key.scopes)),
        "all" if key.models is None else ",".join(sorted(key.models)),
        f"{key.share:g}" + (" urgent" if key.may_be_urgent else ""),
        expires + (" (expired)" if key.expires is not None and key.expires <= now else ""),
    )


def _revoke(given: argparse.Namespace, path: Path) -> None:
    with _locked(path):
        keys = read_keys(path)
        if given.name not in keys:
            known = ", ".join(keys) or "none"
            raise KeyFileError(f"{path}: expected one of the keys {known}, got {given.name!r}")
        write_keys(path, [key for key in keys.values() if key.name != given.name])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change a file, by a lock on its folder."""
    try:
        number = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)
