"""Compiled sums of messages and derivatives, for direct training steps."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from twinforce_models.potentials.hybrid_net.messages import feature_gradients, message_sums


@cache
def _compiled(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that torch compiles for each new shape, and keeps on disk."""
    fast: Callable[..., tuple[Tensor, ...]] = torch.compile(function, dynamic=False, fullgraph=True)
    return fast


class CompiledSums(torch.autograd.Function):
    """`message_sums` without derivatives with respect to directions, which training needs not."""

    @staticmethod
    def forward(
        ctx: Any,
        widths: list[int],
        neighbors: Tensor,
        filters: Tensor,
        u: Tensor,
        squares: Tensor,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the sums."""
        ctx.widths = widths
        ctx.save_for_backward(neighbors, filters, u, squares, *features)
        tensors = _detached(neighbors, filters, u, squares, *features)
        return _compiled(message_sums)(widths, *tensors)

    @staticmethod
    def backward(ctx: Any, ds: Tensor, dv: Tensor, dt: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivatives with respect to the filters and to each of the features."""
        neighbors, filters, u, squares, *features = _detached(*ctx.saved_tensors)
        gradients = tuple(each.contiguous() for each in _detached(ds, dv, dt))
        by_filters, *by_features = _compiled(feature_gradients)(
            ctx.widths, neighbors, filters, u, squares, gradients, *features
        )
        return None, None, by_filters, None, None, *by_features


def _detached(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors without their history, which the compiled functions do not use."""
    return [tensor.detach() for tensor in tensors]
