"""Train a hybrid PET in two stages with metatrain, or go on training; then measure its errors.

    python -m twinforce_models.training.pet.main --data FOLDER --out runs/pet

Each stage is `mtt train` with the options beside this file, in a folder of its own. What is
already there is kept: a finished stage is not repeated, an interrupted one goes on from its last
epoch. The systems kept out of training are those that the native recipe keeps out.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ase.io

from twinforce_models import registry
from twinforce_models.training import dataset, report
from twinforce_models.training.config import read_recipe

STAGES = ("direct", "conservative")
NATIVE_RECIPE = Path(__file__).parents[1] / "water.toml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both stages and write errors.json."""
    parser = argparse.ArgumentParser(prog="train-pet", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is written")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=2,
        metavar=("DIRECT", "CONSERVATIVE"),
        help="how long each stage is, instead of what its options say",
    )
    parser.add_argument(
        "--override", action="append", default=[], help="of an option, such as device=cuda"
    )
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("metatrain") is None:
        parser.exit(2, "training a PET needs metatrain: pip install 'twinforce[pet,training]'\n")
    for index, stage in enumerate(STAGES):
        folder = options.out / stage
        write_data(options.data, folder)
        overrides = list(options.override)
        if options.epochs:
            overrides.append(f"architecture.training.num_epochs={options.epochs[index]}")
        train_stage(stage, folder, overrides, options.threads)
    errors = measure_errors(options.out / STAGES[-1])
    (options.out / "errors.json").write_text(json.dumps(errors, indent=1) + "\n")
    print(json.dumps(errors, indent=1))  # noqa: T201


def write_data(data: Path, folder: Path) -> None:
    """Write `folder`/train.xyz and `folder`/test.xyz, unless they are there."""
    if (folder / "test.xyz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    examples = dataset.read_examples(data)
    recipe, _ = read_recipe(NATIVE_RECIPE)
    train, test = dataset.split_examples(examples, recipe)
    ase.io.write(folder / "train.xyz", train)
    ase.io.write(folder / "test.xyz", test)


def train_stage(stage: str, folder: Path, overrides: Sequence[str], threads: int) -> None:
    """Run a stage to its end, from where it was left; `folder`/model.ckpt is the result.

    Raises:
        subprocess.CalledProcessError: If metatrain fails; what it says is printed and logged.
    """
    if (folder / "model.ckpt").exists():
        return
    recipe = Path(__file__).parent / f"{stage}.yaml"
    command = [sys.executable, "-m", "metatrain", "train", str(recipe), "--restart", "auto"]
    for override in overrides:
        command += ["-r", override]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def measure_errors(folder: Path) -> dict[str, float]:
    """Return the errors of `folder`/model.ckpt on `folder`/test.xyz."""
    examples = dataset.read_examples(folder / "test.xyz")
    potential = registry.load(folder / "model.ckpt").potential
    predictions = report.predict_each(potential, examples)
    errors = {"n_test_systems": float(len(examples))}
    errors |= report.errors_of(report.compare(examples, predictions))
    return errors | report.nonconservativity_of(potential, examples)


if __name__ == "__main__":
    main()
