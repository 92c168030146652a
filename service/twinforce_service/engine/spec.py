"""What an engine is to be: plain data, so that it can be told to another process."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from twinforce_service.scheduling.request import Limits


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine serves, and where.

    Attributes:
        models: Name -> spec of each model, as `twinforce_models.registry.load` takes it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32" or "float64".
        n_threads: Of the CPU, for one evaluation.
        matmul_precision: "highest", or "high" for TF32 where a GPU has it.
        compile: "auto", "on" or "off": whether native models are compiled.
        compile_cache: Folder of what is compiled.
        limits: How much may wait, and how much is evaluated at once.
        log_level: "debug", "info", "warning" or "error".
        log_format: "text" or "json".
    """

    models: Mapping[str, str]
    device: str = "auto"
    dtype: str = "auto"
    n_threads: int = 1
    matmul_precision: str = "highest"
    compile: str = "off"
    compile_cache: str = ""
    limits: Limits = field(default_factory=Limits)
    log_level: str = "warning"
    log_format: str = "text"

    def to_json(self) -> str:
        """Return it on one line; the inverse of `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> "EngineSpec":
        """Return what `to_json` has written."""
        values: dict[str, Any] = json.loads(line)
        return EngineSpec(**values | {"limits": Limits(**values["limits"])})
