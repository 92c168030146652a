"""Distill a conservative model into a hybrid that runs multiple time stepping.

    report = distill([atoms], source, settings, Path("hybrid"))

Needs the extras `cli`, `server` and `training`, as it starts services and trains a network.
"""

from twinforce.distill.distillation import distill
from twinforce.distill.programs.services import ServiceOptions
from twinforce.distill.settings import DistillSettings, default_time_step_fs
from twinforce.distill.teacher import TeacherSource

__all__ = [
    "DistillSettings",
    "ServiceOptions",
    "TeacherSource",
    "default_time_step_fs",
    "distill",
]
