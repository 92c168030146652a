"""Look up known vulnerabilities of what is installed and of what the lock files pin.

Exit code 0: none is known. 1: some are known. 3: nobody could be asked, which says nothing about
the packages. Whoever is asked is first asked about an old version whose vulnerabilities are
well known, because some mirrors of PyPI answer, but without advisories.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.supply.advisories import Vulnerable, search
from tests.supply.packages import LOCKS, installed, pinned

SERVICES = ("pypi", "osv")
KNOWN, UNKNOWN = 1, 3
# It has had advisories since 2019.
_VULNERABLE = ("urllib3", "1.24")
_OLDEST = timedelta(days=30)
_FLAGS = ("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off")


class NoAnswerError(Exception):
    """Nobody tells about the vulnerabilities of a package."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.supply.audit", description=__doc__)
    parser.add_argument("--pip-audit", default="pip-audit", help="the program to ask with")
    parser.add_argument(
        "--advisories", type=Path, help="ask no service but a checkout of pypa/advisory-database"
    )
    arguments = parser.parse_args()
    locks = [pinned(each) for each in sorted(LOCKS.glob("*.lock"))]
    packages = installed().union(*locks)
    try:
        if arguments.advisories:
            found = _search(arguments.advisories, packages)
        else:
            found = _ask(arguments.pip_audit, _service(arguments.pip_audit), packages)
    except NoAnswerError as reason:
        sys.stderr.write(f"nothing is known about vulnerabilities: {reason}\n")
        return UNKNOWN
    for each in found:
        sys.stdout.write(f"{each.name} {each.version}: {', '.join(each.advisories)}\n")
    sys.stdout.write(f"{len(found)} of {len(packages)} packages have known vulnerabilities\n")
    return KNOWN if found else 0


def _service(program: str) -> str:
    """Return the first service that knows the vulnerabilities of a package that has some."""
    reasons = []
    for service in SERVICES:
        try:
            if _ask(program, service, [_VULNERABLE]):
                return service
            reason = f"it knows none of {' '.join(_VULNERABLE)}, which has some"
        except NoAnswerError as error:
            reason = str(error)
        reasons.append(f"{service}: {reason}")
    raise NoAnswerError("; ".join(reasons))


def _ask(program: str, service: str, packages: Iterable[tuple[str, str]]) -> list[Vulnerable]:
    """Return the vulnerable ones of some packages, as a service tells."""
    rest, found = sorted(packages), []
    while rest:  # at most one version of each package may be asked about at once
        now = dict(reversed(rest))
        rest = [(name, version) for name, version in rest if now[name] != version]
        found += _ask_once(program, service, now)
    return sorted(found, key=str)


def _ask_once(program: str, service: str, packages: Mapping[str, str]) -> list[Vulnerable]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.writelines(f"{name}=={version}\n" for name, version in packages.items())
        requirements.flush()
        command = [program, "--requirement", requirements.name, "--vulnerability-service", service]
        try:
            done = subprocess.run([*command, *_FLAGS], capture_output=True, text=True, check=False)
        except OSError as error:
            raise NoAnswerError(f"cannot run {program}: {error.strerror}") from error
    return _vulnerable(done)


def _vulnerable(done: "subprocess.CompletedProcess[str]") -> list[Vulnerable]:
    """Return the vulnerable packages of a report."""
    try:
        reports = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoAnswerError(lines[-1][:300]) from error
    if skipped := [each["name"] for each in reports if "skip_reason" in each]:
        raise NoAnswerError(f"it knows nothing about {', '.join(skipped)}")
    return [
        Vulnerable(each["name"], each["version"], tuple(v["id"] for v in each["vulns"]))
        for each in reports
        if each["vulns"]
    ]


def _search(folder: Path, packages: set[tuple[str, str]]) -> list[Vulnerable]:
    """Return the vulnerable ones of some packages by the advisories of a folder."""
    if not search(folder, [_VULNERABLE]).found:
        raise NoAnswerError(f"{folder} has no advisory about {' '.join(_VULNERABLE)}")
    known = search(folder, packages)
    if not known.found and datetime.now(UTC) - known.newest > _OLDEST:
        raise NoAnswerError(
            f"{folder} has none, but its newest advisory is of {known.newest:%Y-%m-%d}"
        )
    return known.found


if __name__ == "__main__":
    sys.exit(main())
