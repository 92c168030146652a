"""Loading of a file that `build` wrote, as a function."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from twinforce_models.potentials.hybrid_net.compilation.spec import Spec

Compiled = Callable[[list[Tensor]], Sequence[Tensor]]
"""Maps weights and `Inputs`, in one list, to the results of the part."""


def load(path: Path, spec: Spec) -> Compiled:
    """Return the function in a file that `build` wrote.

    Avoids `torch._inductor.aoti_load_package`, which takes seconds to import and needs a compiler.

    Raises:
        RuntimeError: If the file cannot be loaded.
    """
    device = torch.device(spec.device)
    # The stream management of a multi-threaded loader cannot be recorded in a CUDA graph.
    is_single_threaded = device.type == "cuda"
    loader = torch._C._aoti.AOTIModelPackageLoader(
        str(path), "model", is_single_threaded, 1, -1 if device.index is None else device.index
    )
    run: Compiled = loader.run
    return run
