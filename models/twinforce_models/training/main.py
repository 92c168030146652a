"""The command `twinforce-train`, which trains a model by a recipe and measures its errors."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from twinforce_models.memory import keep_freed_memory
from twinforce_models.training.config import LabelingModel, labeling_model, read_recipe
from twinforce_models.training.run import prepare, write_report
from twinforce_models.training.students.presets import PRESETS
from twinforce_models.training.students.student import StudentOrder, prepare_student

_EPILOG = """examples:
  twinforce-train water.toml --data path/to/water --out runs/water
  twinforce-train --student fast --minutes 20 --data path/to/labels --out runs/student

Data are extended XYZ files with energies (eV), forces (eV/Å) and, if known, stresses (eV/Å³). A
student needs info["split"], "train" or "test", and info["group"], an integer that is the same for a
system and its twin, the same atoms a few fs later, and differs for all others.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Start or resume training by a recipe; then write the model, its errors and plots.

    With --student, the recipe is made from a preset, the data and the time, and written to the
    folder of all output.
    """
    started = time.monotonic()
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.student is None:
        recipe, about = read_recipe(options.recipe)
        run = prepare(
            recipe,
            options.data,
            options.out,
            is_compiled=not options.no_compile,
            start=options.start,
        )
    else:
        run, about = prepare_student(
            _order(options),
            options.data,
            options.out,
            is_compiled=not options.no_compile,
            started=started,
        )
    run.trainer.run()
    write_report(run, about, options.out, with_nonconservativity=options.student is None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twinforce-train",
        description=main.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, nargs="?", help="TOML file with the recipe")
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--out", type=Path, required=True, help="folder of all output")
    parser.add_argument("--start", help="bundled model, or folder of a model, to start from")
    parser.add_argument(
        "--threads", type=int, default=1, help="number of CPU threads (default: %(default)s)"
    )
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile")
    student = parser.add_argument_group("students, in place of a recipe")
    student.add_argument(
        "--student", choices=sorted(PRESETS), help="preset of the size of the network"
    )
    student.add_argument(
        "--minutes", type=float, help="time for everything, including compilation and the report"
    )
    student.add_argument("--name", default="student", help="name of the model (default: student)")
    student.add_argument("--seed", type=int, default=1, help="seed (default: %(default)s)")
    student.add_argument(
        "--teacher-file",
        type=Path,
        help="JSON file about the model that labeled the data, for the model card: teacher, "
        "teacher_sha256, description, licence, temperatures_k",
    )
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if (options.recipe is None) == (options.student is None):
        parser.error("expected either a recipe or --student")
    if options.student is not None and not (options.minutes or 0) > 0:
        parser.error(f"--minutes: expected a positive number, got {options.minutes}")


def _order(options: argparse.Namespace) -> StudentOrder:
    teacher = None if options.teacher_file is None else read_teacher(options.teacher_file)
    return StudentOrder(
        options.student, options.minutes, options.name, options.seed, options.start, teacher
    )


def read_teacher(path: Path) -> LabelingModel:
    """Return the description of a teacher from a JSON file.

    Raises:
        ValueError: If the file is no JSON, or a key is missing or unknown.
    """
    try:
        return labeling_model(json.loads(path.read_text()))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


if __name__ == "__main__":
    main()
