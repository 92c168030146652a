"""The training of a student by `twinforce-train`, in a process of its own."""

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twinforce.assess.folder import write_json
from twinforce.assess.progress import Progress
from twinforce.distill.programs.children import ChildFailedError, running
from twinforce.distill.settings import DistillSettings

# What the program says if it has too little time, with the time that it needs.
_TOO_SHORT = re.compile(r"minutes: expected at least ([\d.]+)")
_MODULE = "twinforce_models.training.main"
_INTERVAL_S = 0.2
_FEWEST_MINUTES = 0.05


def train(
    directory: Path,
    data: Path,
    settings: DistillSettings,
    *,
    about: Mapping[str, Any],
    start: Path | None,
    minutes: float,
    log: Path,
    progress: Progress,
) -> None:
    """Train a student, or continue a training that was interrupted.

    Args:
        directory: Folder of the training; `model` in it becomes the student.
        data: Folder of the labeled systems.
        settings: Settings of the distillation.
        about: Facts on the teacher for the card of the student.
        start: Folder of the model to start from; None for random weights.
        minutes: Wall time, in minutes; must be the same when the training continues.
        log: File for the output of the program.
        progress: Where to show progress.

    Raises:
        ChildFailedError: The program failed; the message quotes its output.
    """
    if (directory / "model" / "model.json").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    about_file = directory / "teacher.json"
    write_json(about_file, dict(about))
    command = [
        *(sys.executable, "-m", _MODULE, "--student", settings.student),
        *("--minutes", f"{max(minutes, _FEWEST_MINUTES):.4f}"),
        *("--data", str(data), "--out", str(directory)),
        *("--name", settings.name, "--teacher-file", str(about_file)),
        *("--threads", str(settings.service.threads or 1)),
        *settings.training_flags,
        *([] if start is None else ["--start", str(start)]),
    ]
    total = max(math.ceil(60.0 * minutes), 1)
    begin = time.monotonic()
    with running(command, log) as child, progress.bar("training", total, 0, "s") as bar:
        while child.status is None:
            time.sleep(_INTERVAL_S)
            bar.update(min(round(time.monotonic() - begin), total) - bar.n)
        if child.status != 0 or not (directory / "model" / "model.json").exists():
            raise child.failure("the training")


def minutes_needed(error: ChildFailedError) -> float | None:
    """Return the time that a training needs, in minutes, if it failed for having less."""
    found = _TOO_SHORT.search(str(error))
    return float(found[1]) if found else None


def export(model: Path, student: Path) -> None:
    """Copy a model folder to that of the student, as a whole."""
    partial = student.with_name(student.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    shutil.rmtree(student, ignore_errors=True)
    partial.rename(student)


def metadata_of(model: Path) -> dict[str, Any]:
    """Return what a model folder declares."""
    return dict(json.loads((model / "model.json").read_text()))
