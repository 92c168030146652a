"""Train SOAP-BPNN on the water data with metatrain, with conservative and with direct forces.

    make train-soap DATA=path/to/water ARGS="--epochs 100 50"

makes an environment with `metatrain[soap-bpnn]`, in which the study serves both models later. Each
kind is trained by itself, as in the paper, with the options in this folder, and exported for the
service. A repeated command resumes a training that was interrupted, or that had fewer epochs than
are now asked for, from its last epoch. The test systems are those of the bundled model.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.runner.command_line import parser_of
from bench.runner.machine import ROOT
from twinforce_models import registry
from twinforce_models.training import dataset, report
from twinforce_models.training.pet.main import write_data

KINDS = ("conservative", "direct")
FOLDER = ROOT / "runs" / "soap"
ERRORS = "soap_errors.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, export and measure both models; write docs/published/soap_errors.json."""
    parser = parser_of("bench.paper.published.soap", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of all output")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of published.md")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--epochs", type=int, nargs=2, metavar=("CONSERVATIVE", "DIRECT"),
        help="number of epochs of each kind (default: as in its options)")  # fmt: skip
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("spex") is None:
        parser.exit(2, "training SOAP-BPNN needs metatrain[soap-bpnn]: run `make train-soap`\n")
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    for index, kind in enumerate(KINDS):
        folder = given.out / kind
        write_data(given.data, folder)
        train(kind, folder, given.epochs[index] if given.epochs else None, environment)
    text = json.dumps(errors_of(given.out), indent=1)
    print(text)
    path = given.docs / "published" / ERRORS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def train(kind: str, folder: Path, epochs: int | None, environment: Mapping[str, str]) -> None:
    """Start or resume a training and run it to its end; the results are model.ckpt and model.pt.

    A finished training is resumed if it had fewer epochs; its learning rate rises again.

    Args:
        kind: Kind of forces, one of `KINDS`.
        folder: Folder of the data and of all output.
        epochs: Number of epochs in total, or None for that of the options.
        environment: Variables of the environment of metatrain.

    Raises:
        subprocess.CalledProcessError: Metatrain failed; it prints and logs the reason.
    """
    if (folder / "model.pt").exists():
        n_before = n_epochs(folder)
        if epochs is None or epochs <= n_before:
            print(f"{kind}: trained for {n_before} epochs before; delete {folder} to train anew")
            return
        print(f"{kind}: trained for {n_before} epochs before; continues to {epochs}")
    overrides = [] if epochs is None else ["-r", f"architecture.training.num_epochs={epochs}"]
    options = str(_options(kind))
    command = [sys.executable, "-m", "metatrain", "train", options, "--restart", "auto"]
    subprocess.run([*command, *overrides], cwd=folder, env=environment, check=True)


def errors_of(folder: Path) -> dict[str, float]:
    """Return the errors of both models on the test systems; energies are the conservative one's."""
    parts = (f"{kind}:metatomic:{folder / kind / 'model.pt'}" for kind in KINDS)
    potential = registry.load("+".join(parts)).potential
    examples = dataset.read_examples(folder / KINDS[0] / "test.xyz")
    predictions = report.predict_each(potential, examples)
    epochs = {f"{kind}_epochs": float(n_epochs(folder / kind)) for kind in KINDS}
    errors = report.errors_of(report.compare(examples, predictions))
    return {"n_test_systems": float(len(examples))} | epochs | errors


def n_planned(kind: str) -> int:
    """Return the number of epochs in the options of a kind of forces."""
    text = _options(kind).read_text(encoding="utf-8")
    return int(re.findall(r"num_epochs: (\d+)", text)[0])


def _options(kind: str) -> Path:
    return Path(__file__).with_name(f"soap_{kind}.yaml")


def n_epochs(folder: Path) -> int:
    """Return the number of epochs of a training, from the checkpoints of all its attempts.

    Metatrain writes model_0.ckpt after the first epoch, and one file after each that follows.
    """
    checkpoints = folder.glob("outputs/*/*/model_*.ckpt")
    return max((int(path.stem.removeprefix("model_")) + 1 for path in checkpoints), default=0)


if __name__ == "__main__":
    main()
