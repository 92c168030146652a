"""The specification of an engine: plain data, so that it can be sent to another process."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from twinforce_service.scheduling.request import Limits


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The models that an engine serves, its device and its limits.

    Attributes:
        models: Specification of each model by name, as `twinforce_models.registry.load` takes it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32" or "float64".
        trust_pickles: True if files of models that could run code may be loaded.
        trust_packages: Packages whose code the specification of a model may name.
        n_threads: Number of CPU threads that one operation may use.
        matmul_precision: "highest", or "high" for TF32 on GPUs that have it.
        compile: Compilation of native models: "auto", "on" or "off".
        compile_cache: Folder of compiled models.
        limits: Limits of the queue, of batches and of systems.
        watchdog: Time without a sign of life that the engine is always allowed, in s; 0 means that
            nobody watches.
        memory_share: Part of the memory of a GPU that the engine may use.
        log_level: "debug", "info", "warning" or "error".
        log_format: "text" or "json".
    """

    models: Mapping[str, str]
    device: str = "auto"
    dtype: str = "auto"
    trust_pickles: bool = False
    trust_packages: Sequence[str] = ()
    n_threads: int = 1
    matmul_precision: str = "highest"
    compile: str = "off"
    compile_cache: str = ""
    limits: Limits = field(default_factory=Limits)
    watchdog: float = 10.0
    memory_share: float = 1.0
    log_level: str = "warning"
    log_format: str = "text"

    def to_json(self) -> str:
        """Return the specification as one line; the inverse of `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> "EngineSpec":
        """Return the specification that `to_json` wrote."""
        values: dict[str, Any] = json.loads(line)
        return EngineSpec(**values | {"limits": Limits(**values["limits"])})
