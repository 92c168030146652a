"""Services that a distillation starts for itself, on free ports of this machine."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twinforce._client import Client
from twinforce.distill.programs.children import running, wait_for

_READY = re.compile(r"^gRPC\s+(grpc://\S+)$", re.MULTILINE)
_START_TIMEOUT_S = 1800.0
# Evaluations of a slow teacher on a busy machine; the service notices if it is gone.
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Options of the services that are started.

    Attributes:
        dtype: Data type to compute in: "float32", "float64" or "auto".
        device: Device to compute on.
        threads: CPU threads of an evaluation; 0 leaves it to the service.
        trust_pickles: True to load files that could run code.
        trust_packages: Packages of ASE calculators that may be named, separated by commas.
        environments: Environments of Python that specs may name, as NAME=PYTHON.
        is_compiled: True to compile native networks.
    """

    dtype: str = "float32"
    device: str = "auto"
    threads: int = 0
    trust_pickles: bool = False
    trust_packages: str = ""
    environments: tuple[str, ...] = ()
    is_compiled: bool = True

    def flags(self) -> list[str]:
        """Return the flags of `twinforce-server`."""
        flags = [f"--dtype={self.dtype}", f"--device={self.device}", f"--n-threads={self.threads}"]
        if self.trust_pickles:
            flags.append("--trust-pickles")
        if self.trust_packages:
            flags.append(f"--trust-packages={self.trust_packages}")
        return [*flags, *(f"--environment={each}" for each in self.environments)]


@contextmanager
def running_service(
    models: Mapping[str, str],
    options: ServiceOptions,
    log: Path,
    title: str,
    *,
    waits_for_compilation: bool = False,
    timeout_s: float = _START_TIMEOUT_S,
) -> Iterator[Client]:
    """Run a service of these models inside this context; yield its client once it is ready.

    Args:
        models: Specs of the models, by name.
        options: Options of the service.
        log: File for its output.
        title: Phrase that names the service in errors.
        waits_for_compilation: True to wait until networks are compiled; otherwise they are
            compiled in the background.
        timeout_s: Seconds that it may take to start.

    Raises:
        ChildFailedError: It did not start, for example because a model cannot be loaded.
    """
    compilation = "on" if waits_for_compilation else "auto"
    command = [
        *(sys.executable, "-m", "twinforce_service.main", "--no-water"),
        *("--host=127.0.0.1", "--rest-port=0", "--grpc-port=0"),
        f"--compile={compilation if options.is_compiled else 'off'}",
        *options.flags(),
        *(f"--model={name}={spec}" for name, spec in models.items()),
    ]
    with running(command, log) as child:
        wait_for(
            child,
            lambda: _READY.search(child.output()) is not None,
            title,
            timeout_s=timeout_s,
        )
        found = _READY.search(child.output())
        assert found is not None
        with Client(found[1], timeout=_TIMEOUT_S, reconnect_timeout=60.0) as client:
            yield client
