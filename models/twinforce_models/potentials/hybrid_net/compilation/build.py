"""Compiling the network into a file: what a process of its own does.

    python -m twinforce_models.potentials.hybrid_net.compilation.build PATH [--nice]

The spec is read as JSON from standard input.

Ahead of time, and with the numbers of atoms and neighbors left open: the file serves any batch, and
nothing is ever compiled again because of a size. The weights are left out too, so models of one
architecture share it. The process ends when its standard input does, so that it never outlives
who asked for it; with --nice it yields to everybody else who wants the processor.
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
from torch.export import Dim
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


def build(spec: Spec, path: Path) -> None:
    """Compile into a file.

    Args:
        spec: What to compile.
        path: Of the file, which ends in .pt2.

    Raises:
        Exception: Whatever the compiler raised; without a C++ compiler there is none.
    """
    torch.set_num_threads(spec.n_threads)
    dtype, device = getattr(torch, spec.dtype), torch.device(spec.device)
    core = HybridCore(spec.hyperparameters).to(device, dtype).eval().requires_grad_(False)
    own, example = list(named_weights(core).values()), _example(core, spec.has_reverse)
    with torch.no_grad():
        graph = make_fx(_of_weights(core, spec.part), tracing_mode="symbolic")(own, *example)
        n_atoms, width = Dim("n_atoms", min=MIN_SIZE), Dim("width", min=MIN_SIZE)
        atoms, table = {0: n_atoms}, {0: n_atoms, 1: width}
        shapes = ([None] * len(own), atoms, atoms, *([table] * (len(example) - 2)))
        program = torch.export.export(graph, (own, *example), dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"cpp.threads": spec.n_threads, "compile_threads": _n_workers(spec)},
    )
    _try(spec, path, own, example)


def _try(spec: Spec, path: Path, own: list[Tensor], example: tuple[Tensor, ...]) -> None:
    """Load what was built and call it, in this process: what kills it must kill nobody else.

    A C++ compiler that puts its standard library into what it links, say, makes code that crashes.
    """
    found = load(path, spec)([*own, *example])
    if not all(each.isfinite().all() for each in found):
        raise ArithmeticError("what was built gives NaN or infinity")


def _n_workers(spec: Spec) -> int:
    """Return how many processes compile: for a GPU there are many small kernels."""
    return 1 if spec.device.startswith("cpu") else min(8, os.cpu_count() or 1)


class _Part(nn.Module):
    def __init__(self, core: HybridCore, part: Part) -> None:
        super().__init__()
        self.core = core
        self.evaluate = direct if part == "direct" else hybrid

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.evaluate(self.core, Inputs(*inputs)))


def _of_weights(core: HybridCore, part: Part) -> Any:
    """Return the part as a function of the weights, which a tracer must see come in."""
    module = _Part(core, part)
    names = [f"core.{name}" for name in named_weights(core)]

    def evaluate(values: list[Tensor], *inputs: Tensor) -> Any:
        return functional_call(module, dict(zip(names, values, strict=True)), inputs)

    return evaluate


def _example(core: HybridCore, has_reverse: bool) -> tuple[Tensor, ...]:
    """Return `Inputs` of sizes that stand for any other: no weight has them."""
    weight = core.embedding.weight
    taken = {size for value in named_weights(core).values() for size in value.shape}
    n_atoms, width = islice((size for size in count(31) if size not in taken), 2)
    neighbors = torch.zeros(n_atoms, width, dtype=torch.int64, device=weight.device)
    return (
        neighbors[:, 0].clone(),
        weight.new_ones(n_atoms, 3),
        neighbors,
        weight.new_ones(n_atoms, width, 3),
        *([neighbors.clone()] if has_reverse else []),
    )


def _die_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Build what standard input says, into the file that is named; whole or not at all.

    Of several processes that want the same file one builds it, and the others wait.
    """
    os.umask(0o077)  # what others may write is not loaded
    path = Path(sys.argv[1])
    spec = Spec.from_json(sys.stdin.readline())
    threading.Thread(target=_die_with_input, daemon=True).start()
    if sys.argv[2:] == ["--nice"]:
        os.nice(10)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        folder = path.with_suffix(".building")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(mode=0o700)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        build(spec, folder / path.name)
        (folder / path.name).replace(path)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
