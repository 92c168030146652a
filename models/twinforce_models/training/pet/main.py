"""Train a hybrid PET in two stages with metatrain, then measure its errors.

    python -m twinforce_models.training.pet.main --data path/to/water --out runs/pet

Each stage runs `mtt train` with the options in this folder, in a separate output folder. A repeated
command skips finished stages and resumes an interrupted one from its last epoch. The test systems
are those of the native recipe.
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
    parser = argparse.ArgumentParser(
        prog="python -m twinforce_models.training.pet.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--out", type=Path, required=True, help="folder of all output")
    parser.add_argument(
        "--threads", type=int, default=1, help="number of CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=2,
        metavar=("DIRECT", "CONSERVATIVE"),
        help="number of epochs of each stage (default: as in its options)",
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="option of metatrain, such as device=cuda; repeatable",
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
    """Write `folder`/train.xyz and `folder`/test.xyz unless they exist."""
    if (folder / "test.xyz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    examples = dataset.read_examples(data)
    recipe, _ = read_recipe(NATIVE_RECIPE)
    train, test = dataset.split_examples(examples, recipe)
    ase.io.write(folder / "train.xyz", train)
    ase.io.write(folder / "test.xyz", test)


def train_stage(stage: str, folder: Path, overrides: Sequence[str], threads: int) -> None:
    """Start or resume a stage and run it to its end; the result is `folder`/model.ckpt.

    Raises:
        subprocess.CalledProcessError: If metatrain fails; it prints and logs the reason.
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
