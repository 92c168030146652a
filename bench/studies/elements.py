"""Elastic constants of six crystals, and dynamics of crystals and melts, with `elements6`.

    python -m bench.studies.elements --data path/to/mlearn6.xyz

Elastic constants are derivatives of the stress with respect to strain, with clamped ions, at the
unstrained cell of the data; the same polynomial fit is used for labels and predictions. Dynamics
at constant pressure run through a service, with hybrid and with conservative forces. Runs that are
in the result already are not repeated.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from bench.studies.crystals import compare_crystals
from bench.studies.motion import MOTIONS, run_motion, start_of
from twinforce_models import registry
from twinforce_proto import InvalidSystemError, NonFinitePredictionError
from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing, and write bench/results/elements.json."""
    parser = parser_of("bench.studies.elements", __doc__)
    parser.add_argument(
        "--data", type=Path, help="extended XYZ file with the labels; without it, dynamics only"
    )
    parser.add_argument("--model", default="elements6", help="name or folder of the model")
    parser.add_argument("--picoseconds", type=float, default=2.0, help="length of each run")
    parser.add_argument("--only", nargs="*", default=list(MOTIONS), help="names of runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    path = options.out / "elements.json"
    loaded = registry.load(options.model, device="cpu", dtype="float64")
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("sha256") != loaded.info.sha256:
        found = {"sha256": loaded.info.sha256, "machine": describe_machine(1), "dynamics": {}}
    if options.data is not None:
        found["crystals"] = compare_crystals(
            loaded.potential,
            options.data,
            loaded.info.metadata["recipe"].get("stress_offsets", ()),
        )
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
            except (InvalidSystemError, NonFinitePredictionError) as error:  # the run is unstable
                found["broke"] = found.get("broke", {}) | {name: str(error)}
                path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
