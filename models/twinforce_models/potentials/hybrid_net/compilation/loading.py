"""From a file that `build` wrote to a function."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from twinforce_models.potentials.hybrid_net.compilation.spec import Spec

Compiled = Callable[[list[Tensor]], Sequence[Tensor]]
"""From weights and `Inputs`, in one list, to what the part gives."""


def load(path: Path, spec: Spec) -> Compiled:
    """Return the function in a file that `build` wrote.

    Past `torch._inductor.aoti_load_package`, which takes seconds to import and wants a compiler.

    Raises:
        RuntimeError: It cannot be loaded.
    """
    device = torch.device(spec.device)
    is_alone = device.type == "cuda"  # its own bookkeeping of streams cannot be recorded
    loader = torch._C._aoti.AOTIModelPackageLoader(
        str(path), "model", is_alone, 1, -1 if device.index is None else device.index
    )
    run: Compiled = loader.run
    return run
