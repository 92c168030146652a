"""Run the attacks, and print what came of each beside what came of it before there were bounds.

If no attacks are named, docs/attacks.md is written as well.
"""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from pathlib import Path

from tests import attacks
from tests.attacks.fairness import summary
from tests.attacks.page import page, row
from tests.attacks.probe import Probe
from tests.attacks.victim import Victim

BEFORE = Path(__file__).with_name("before.json")
DOCS = Path(__file__).parents[2] / "docs"
# Seconds that the probe watches before and after an attack.
_MARGIN_S = 0.3


def found_attacks():
    """Return the attacks of all modules, by title."""
    names = sorted(each.name for each in pkgutil.iter_modules(attacks.__path__))
    modules = [importlib.import_module(f"tests.attacks.{n}") for n in names if n != "__main__"]
    return {
        title: (module.__name__.rpartition(".")[2], attack)
        for module in modules
        for title, attack in getattr(module, "ATTACKS", {}).items()
    }


def measured(attack):
    """Return what came of an attack on a fresh service."""
    victim = Victim()
    try:
        time.sleep(_MARGIN_S)
        victim.forget_peaks()
        memory_mb, cpu_s = victim.memory_mb("VmRSS"), victim.cpu_s()
        probe = Probe(victim.rest_port)
        time.sleep(_MARGIN_S)
        outcome = attack(victim)
        time.sleep(_MARGIN_S)
        latencies = probe.stop()
        return latencies | {
            "cpu_s": victim.cpu_s() - cpu_s,
            "peak_mb": victim.memory_mb("VmHWM") - memory_mb,
            "log_kb": victim.n_log_bytes / 1000,
            "outcome": outcome if victim.is_alive else f"{outcome}; a process died",
        }
    finally:
        victim.stop()


def rounded(values):
    """Return measurements with as many digits as they are worth."""
    return {k: round(v, 1) if isinstance(v, float) else v for k, v in values.items()}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules, or parts of titles; all by default")
    parser.add_argument("--note", default="", help="remark for the page")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    arguments = parser.parse_args()
    before, found = json.loads(BEFORE.read_text()), {}
    for title, (module, attack) in found_attacks().items():
        if arguments.names and not any(name in (module, title) for name in arguments.names):
            continue
        found[title] = rounded(measured(attack))
        sys.stdout.write(row(title, before.get(title, {}), found[title]))
        sys.stdout.flush()
    if arguments.names:
        return
    data = {
        "attacks": found,
        "fairness": summary(),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()})",
        "load": round(os.getloadavg()[2], 1),
        "note": arguments.note,
    }
    (arguments.docs / "attacks.json").write_text(json.dumps(data, indent=1) + "\n")
    (arguments.docs / "attacks.md").write_text(page(data, before), encoding="utf-8")


if __name__ == "__main__":
    main()
