"""Resolve the pins of a family anew, for a release; run it in a checkout.

python -m twinforce_service.environments.pinning sevenn mace
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twinforce_service.environments.creation import PINS
from twinforce_service.environments.source import checkout

_HEADING = "# Made by python -m twinforce_service.environments.pinning; see docs/models.md."
# Packages that come with the build of torch, not with the family.
_OF_TORCH = ("nvidia-", "triton", "cuda-")


def main(extras: Sequence[str]) -> None:
    """Write the pins of some extras."""
    for extra in extras:
        with TemporaryDirectory() as folder:
            report = _resolve(extra, Path(folder) / "report.json")
        (PINS / f"{extra}.txt").write_text(pins_in(report))


def pins_in(report: Mapping[str, Any]) -> str:
    """Return the pins that an installation report of pip amounts to."""
    packages = [each["metadata"] for each in report["install"]]
    found = {
        re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"].partition("+")[0]
        for each in packages
    }
    lines = [
        f"{name}=={version}"
        for name, version in sorted(found.items())
        if name != "twinforce" and not name.startswith(_OF_TORCH)
    ]
    return "\n".join((_HEADING, *lines, ""))


def _resolve(extra: str, report: Path) -> Mapping[str, Any]:
    source = checkout()
    if source is None:
        raise SystemExit("pins are resolved in a checkout")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", str(report), "--constraint", str(source / "constraints.txt")]
    subprocess.run([*command, f"{source}[engine,{extra}]"], check=True)
    found: Mapping[str, Any] = json.loads(report.read_text())
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
