"""Evaluations of one size, recorded once as a CUDA graph and replayed for every later batch.

Launching a few hundred kernels takes a processor longer than a GPU needs to run them on a small
batch. A recording is launched as one, including the copies from and to the host. Its inputs and
results have separate memory; intermediate memory may be shared with other recordings, because
only one of them runs at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.tables.layout import Staging
from twinforce_models.tables.table import Places

Evaluate = Callable[[Places], Tensor]
"""Maps places to all requested results, as one flat tensor on the device."""

_N_WARM_UPS = 2


class Recording:
    """A recorded evaluation of one size.

    Args:
        evaluate: The function to record; it must perform the same operations every time, and must
            not synchronize with the device.
        staging: The input; must already hold a batch.
        pool: Memory that is shared with other recordings.
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
        """Evaluate the staged batch; the next run overwrites the result."""
        self._graph.replay()
        torch.cuda.current_stream().synchronize()
        return self._result.numpy()


def run_unrecorded(evaluate: Evaluate, staging: Staging) -> NDArray[Any]:
    """Evaluate the staged batch, launching one kernel at a time."""
    staging.send()
    return evaluate(staging.places).cpu().numpy()
