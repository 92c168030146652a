"""The command `twinforce-server download`: files of models, such as an init container needs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from twinforce_service.downloads.download import Download, DownloadError, fetch

_PROGRAM = "twinforce-server download"
_VARIABLE = "TWINFORCE_DOWNLOAD_TOKEN"


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code.

    Args:
        arguments: Arguments after `download`.
    """
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        downloads = [Download.parse(text) for text in given.file]
    except ValueError as error:
        parser.error(str(error))
    try:
        given.into.mkdir(parents=True, exist_ok=True)
        for each in downloads:
            is_new = fetch(each, given.into, os.environ.get(_VARIABLE, ""))
            sys.stdout.write(f"{given.into / each.name} {'downloaded' if is_new else 'is there'}\n")
            sys.stdout.flush()
    except (DownloadError, OSError) as error:
        sys.stderr.write(f"{_PROGRAM}: error: {error}\n")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments after `download`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Download files of models, and keep each only if it has its hash. Files that "
        "are there are not downloaded again.",
        epilog=f"The variable {_VARIABLE} holds a bearer token for the URLs, if they need one.",
    )
    parser.add_argument("file", nargs="+", metavar="NAME=URL#sha256=HASH", help="file to download")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="their folder")
    return parser
