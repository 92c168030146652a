"""The teacher: a model of a running service, or a spec that gets a service of its own."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from twinforce._client import Client
from twinforce.distill.joined import ServedModel
from twinforce.distill.programs.children import check_installed
from twinforce.distill.programs.services import ServiceOptions, running_service
from twinforce_proto import ModelInfo, ServiceError, UnsupportedOutputError

NAME = "teacher"
_NEEDED = ("energy", "conservative_forces")


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """The place of a teacher.

    Attributes:
        text: Spec or name, as it was given.
        url: Address of the running service; None if the teacher is a spec.
        options: Options of the services that are started.
        client_options: Options of the client of a running service.
    """

    text: str
    url: str | None
    options: ServiceOptions
    client_options: Mapping[str, Any]

    @classmethod
    def of(
        cls, text: str, url: str, options: ServiceOptions, client_options: Mapping[str, Any]
    ) -> "TeacherSource":
        """Return the place that a text names: a spec if it is a path or has a colon."""
        is_spec = ":" in text or Path(text).expanduser().exists()
        return cls(text, None if is_spec else url, options, client_options)

    @property
    def is_spec(self) -> bool:
        """True if the teacher gets a service of its own."""
        return self.url is None

    @contextmanager
    def served(self, log: Path) -> Iterator[ServedModel]:
        """Yield the teacher, whose service runs at least inside this context.

        Args:
            log: File for the output of the service, if it is started here.

        Raises:
            ModuleNotFoundError: Packages for the service or the training are missing.
            ServiceError: The service did not start or cannot be reached, or has no such model.
        """
        check_installed()
        if self.url is not None:
            with Client(self.url, **self.client_options) as client:
                yield ServedModel(client, client.model(self.text))
            return
        title = f"the service of the teacher {self.text!r}"
        with running_service({NAME: self.text}, self.options, log, title) as client:
            yield ServedModel(client, client.model(NAME))


def check_teacher(teacher: ServedModel, systems: Sequence[Atoms]) -> float:
    """Check that a teacher can label these systems; return the time of an evaluation, in s.

    Raises:
        UnsupportedOutputError: The teacher has no conservative forces.
        ServiceError: It refuses a system, which the message names.
    """
    info = teacher.info
    if missing := [name for name in _NEEDED if name not in info.outputs]:
        raise UnsupportedOutputError(
            f"--teacher: expected a model with {' and '.join(_NEEDED)}, got {info.name!r} with "
            f"{', '.join(info.outputs)} and no {' and no '.join(missing)}"
        )
    outputs = outputs_of(info, systems)
    durations = [math.inf]
    for index, atoms in enumerate([systems[0], *systems]):  # the first evaluation takes longer
        begin = time.monotonic()
        try:
            teacher.client.predict(atoms, outputs, info.name)
        except ServiceError as error:
            number = max(index - 1, 0)
            text = f"the teacher refuses system {number} of the file: {error}"
            raise type(error)(text) from error
        durations.append(time.monotonic() - begin)
    return min(durations)


def outputs_of(info: ModelInfo, systems: Sequence[Atoms]) -> tuple[str, ...]:
    """Return the outputs that label systems: with the stress if model and systems have one."""
    has_stress = "conservative_stress" in info.outputs and all(atoms.pbc.all() for atoms in systems)
    return (*_NEEDED, *(["conservative_stress"] if has_stress else []))
