"""Compilation of the network into a file, in a separate process.

    python -m twinforce_models.potentials.hybrid_net.compilation.build PATH [--nice]

Reads the spec as JSON from standard input. The numbers of atoms and neighbors are left open, so the
file serves any batch and no size ever requires another compilation. The weights are not included
either, so models of one architecture share the file. The process exits when its standard input
closes, so that it never outlives its parent; with --nice it runs at low priority.
"""

import fcntl
import os
import shutil
import sys
import threading
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from twinforce_models.potentials.hybrid_net.compilation.loading import load
from twinforce_models.potentials.hybrid_net.compilation.spec import (
    MIN_SIZE,
    Part,
    Spec,
    named_weights,
)
from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.potentials.hybrid_net.fused import Inputs, direct, hybrid

_AVX2_BITS = 256


def build(spec: Spec, path: Path) -> None:
    """Compile a part into a file.

    Args:
        spec: The part to compile.
        path: Path of the file, which ends in .pt2.

    Raises:
        Exception: If the compiler fails, as it does without a C++ compiler.
    """
    torch.set_num_threads(max(spec.n_threads, 1))
    program, inputs = exported(spec)
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs=_processor(spec) | {"compile_threads": _n_workers(spec)},
    )
    _try(spec, path, inputs)


def exported(spec: Spec) -> tuple[ExportedProgram, list[Tensor]]:
    """Return the graph of a part, for any number of atoms and neighbors, and inputs to try it with.

    Raises:
        Exception: If the part cannot be traced.
    """
    dtype, device = getattr(torch, spec.dtype), torch.device(spec.device)
    core = HybridCore(spec.hyperparameters).to(device, dtype).eval().requires_grad_(False)
    weights, example = list(named_weights(core).values()), _example(core, spec.has_reverse)
    with torch.no_grad():
        graph = make_fx(_as_function_of_weights(core, spec.part), tracing_mode="symbolic")(
            weights, *example
        )
        n_atoms, width = Dim("n_atoms", min=MIN_SIZE), Dim("width", min=MIN_SIZE)
        atoms, table = {0: n_atoms}, {0: n_atoms, 1: width}
        shapes = ([None] * len(weights), atoms, *([table] * (len(example) - 1)))
        program = torch.export.export(graph, (weights, *example), dynamic_shapes=shapes)
    return program, [*weights, *example]


def _try(spec: Spec, path: Path, inputs: list[Tensor]) -> None:
    """Load the compiled file and call it in this process, where a crash affects no other.

    For example, if a C++ compiler links its own standard library statically, the code may crash.
    """
    results = load(path, spec)(inputs)
    if not all(result.isfinite().all() for result in results):
        raise ArithmeticError("the compiled part returns NaN or infinity")


def _processor(spec: Spec) -> dict[str, Any]:
    """Return the settings of the compiler that depend on where the part runs."""
    if not spec.level:
        return {"cpp.threads": spec.n_threads}
    return {"cpp.march": spec.level, "cpp.simdlen": _AVX2_BITS, "cpp.dynamic_threads": True}


def _n_workers(spec: Spec) -> int:
    """Return the number of compiling processes: for a GPU, there are many small kernels."""
    return 1 if spec.device.startswith("cpu") else min(8, os.cpu_count() or 1)


class _Part(nn.Module):
    def __init__(self, core: HybridCore, part: Part) -> None:
        super().__init__()
        self.core = core
        self.evaluate = direct if part == "direct" else hybrid

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.evaluate(self.core, Inputs(*inputs)))


def _as_function_of_weights(core: HybridCore, part: Part) -> Any:
    """Return the part as a function of the weights, because a tracer needs them as inputs."""
    module = _Part(core, part)
    names = [f"core.{name}" for name in named_weights(core)]

    def evaluate(values: list[Tensor], *inputs: Tensor) -> Any:
        return functional_call(module, dict(zip(names, values, strict=True)), inputs)

    return evaluate


def _example(core: HybridCore, has_reverse: bool) -> tuple[Tensor, ...]:
    """Return `Inputs` of sizes that no weight has, so that a tracer can tell them apart."""
    weight = core.embedding.weight
    taken = {size for value in named_weights(core).values() for size in value.shape}
    n_atoms, width = islice((size for size in count(31) if size not in taken), 2)
    neighbors = torch.zeros(n_atoms, width, dtype=torch.int64, device=weight.device)
    return (
        neighbors[:, 0].clone(),
        neighbors,
        weight.new_ones(n_atoms, width, 3),
        *([neighbors.clone()] if has_reverse else []),
    )


def _exit_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Build the spec on standard input into the named file, atomically.

    If several processes request the same file, one builds it and the others wait.
    """
    os.umask(0o077)  # files that other users may write to are not loaded
    path = Path(sys.argv[1])
    spec = Spec.from_json(sys.stdin.readline())
    threading.Thread(target=_exit_with_input, daemon=True).start()
    if sys.argv[2:] == ["--nice"]:
        os.nice(10)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        folder = path.with_suffix(".building")
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
        folder.mkdir(mode=0o700)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        build(spec, folder / path.name)
        (folder / path.name).replace(path)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
