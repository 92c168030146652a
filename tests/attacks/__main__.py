"""Run the attacks, and print what came of each, beside what came of it before there were bounds."""

import argparse
import importlib
import json
import pkgutil
import sys
import time
from pathlib import Path

from tests import attacks
from tests.attacks.probe import Probe
from tests.attacks.victim import Victim

BEFORE = Path(__file__).with_name("before.json")
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


def line(values):
    """Return the measurements of an attack as one line."""
    failures = f", {values['n_failed']} probes failed" if values["n_failed"] else ""
    return (
        f"live p50 {values['p50_ms']:.1f} p99 {values['p99_ms']:.0f} max {values['max_ms']:.0f} ms"
        f"{failures}; {values['cpu_s']:.1f} s of CPU, +{values['peak_mb']:.0f} MB; "
        f"{values['outcome']}"
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules, or parts of titles; all by default")
    parser.add_argument("--record", type=Path, help="write the measurements to a file as well")
    arguments = parser.parse_args()
    before = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    found = {}
    sys.stdout.write("| attack | before | now |\n| --- | --- | --- |\n")
    for title, (module, attack) in found_attacks().items():
        if arguments.names and not any(name in (module, title) for name in arguments.names):
            continue
        found[title] = measured(attack)
        then = line(before[title]) if title in before else ""
        sys.stdout.write(f"| {title} | {then} | {line(found[title])} |\n")
        sys.stdout.flush()
        if arguments.record:
            arguments.record.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
