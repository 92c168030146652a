"""Evaluations of one size, recorded once as a CUDA graph and replayed for every batch after.

To launch some hundred kernels takes a processor longer than a GPU needs for a small batch. A
recording is launched as one, copies from and to the host included. What it computes with and what
it leaves behind lies in memory of its own; what is between may be shared with other recordings,
as only one of them runs at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.tables.layout import Staging
from twinforce_models.tables.table import Places

Evaluate = Callable[[Places], Tensor]
"""From places to everything that is asked for, as one flat tensor on the device."""

_N_WARM_UPS = 2


class Recording:
    """An evaluation of one size.

    Args:
        evaluate: What is recorded; it must do the same every time, and ask the device nothing.
        staging: What it evaluates; must hold a batch already.
        pool: Memory shared with other recordings.
    """

    def __init__(self, evaluate: Evaluate, staging: Staging, pool: Any) -> None:
        self.staging = staging
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UPS):
                staging.send()
                flat = evaluate(staging.places)
            self._result = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            del flat
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
        ):
            staging.send()
            self._result.copy_(evaluate(staging.places), non_blocking=True)

    def run(self) -> NDArray[Any]:
        """Evaluate what is staged; the result is overwritten by the next run."""
        self._graph.replay()
        torch.cuda.current_stream().synchronize()
        return self._result.numpy()


def run_unrecorded(evaluate: Evaluate, staging: Staging) -> NDArray[Any]:
    """Evaluate what is staged, kernel by kernel."""
    staging.send()
    return evaluate(staging.places).cpu().numpy()
