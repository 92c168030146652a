"""What `elements6` says of six crystals, beside its labels, and of crystals and melts in motion.

python -m bench.studies.elements --data path/to/mlearn6.xyz

Elastic constants are derivatives of the stress by strain at the cell that the data are strained
from, ions clamped, from one polynomial fit for labels and predictions alike. Dynamics at constant
pressure run through a service, on hybrid forces and on conservative ones. What is done already is
not done again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.runner.machine import ROOT, describe_machine
from bench.studies.crystals import compare_crystals
from bench.studies.motion import MOTIONS, run_motion, start_of
from twinforce_models import registry
from twinforce_proto import InvalidSystemError, NonFinitePredictionError
from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet, and write bench/results/elements.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.elements", description=__doc__)
    parser.add_argument("--data", type=Path, help="extended XYZ; without it, dynamics only")
    parser.add_argument("--model", default="elements6", help="its name, or its folder")
    parser.add_argument("--picoseconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--only", nargs="*", default=list(MOTIONS), help="names of runs")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    path = options.out / "elements.json"
    loaded = registry.load(options.model, device="cpu", dtype="float64")
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("sha256") != loaded.info.sha256:
        found = {"sha256": loaded.info.sha256, "machine": describe_machine(1), "dynamics": {}}
    if options.data is not None:
        found["crystals"] = compare_crystals(loaded.potential, options.data)
        path.write_text(json.dumps(found, indent=2) + "\n")
    settings = Settings(
        rest_port=0, grpc_port=0, n_threads=1, water=False, model={"elements6": options.model}
    )
    with run_in_thread(settings) as server:
        for name in options.only:
            motion = MOTIONS[name]
            labels = {f"{name}, {forces}": forces for forces in ("hybrid", "conservative")}
            if labels.keys() <= found["dynamics"].keys():
                continue
            try:
                start = start_of(server.grpc_url, motion)
                for label, forces in labels.items():
                    rows = options.out / f"elements_{name.replace(' ', '_')}_{forces}.csv"
                    found["dynamics"][label] = run_motion(
                        server.grpc_url, start, motion, forces, options.picoseconds, rows
                    )
                    path.write_text(json.dumps(found, indent=2) + "\n")
            except (InvalidSystemError, NonFinitePredictionError) as error:  # atoms fly apart
                found["broke"] = found.get("broke", {}) | {name: str(error)}
                path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
