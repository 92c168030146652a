"""The sums of messages over neighbors, and their derivatives, written for a compiler.

Message passing is its own transpose. With W(r_ij) = W(r_ji), u_ij = -u_ji and a list that contains
each pair from both ends, the contributions of an atom's features to all others are again a sum over
the neighbors of that atom. The derivative therefore needs no scatter.

All functions take widths [S, V, T] or, after the first layer, [S, V, T, V, T]; neighbors
[n_atoms, k]; filters [n_atoms, k, sum of widths]; u [n_atoms, k, 3]; squares [n_atoms, k, 5]; and
the features: gates [n_atoms, S + V + T] and, after the first layer, v [3, n_atoms, V] and
t [5, n_atoms, T].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Components = list[Tensor] | tuple[Tensor, ...]
SumOverNeighbors = Callable[..., tuple[Tensor, Tensor, Tensor]]


def message_sums(
    widths: list[int],
    neighbors: Tensor,
    filters: Tensor,
    u: Tensor,
    squares: Tensor,
    *features: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums, shapes [n_atoms, S], [3, n_atoms, V] and [5, n_atoms, T]."""
    w = filters.split(widths, dim=-1)
    a = [gate[neighbors] for gate in features[0].split(widths[:3], dim=-1)]
    v = [w[1] * a[1] * c for c in columns(u)]
    t = [w[2] * a[2] * c for c in columns(squares)]
    if len(features) > 1:
        v = [one + w[3] * other[neighbors] for one, other in zip(v, features[1], strict=True)]
        t = [one + w[4] * other[neighbors] for one, other in zip(t, features[2], strict=True)]
    return (w[0] * a[0]).sum(1), summed(v), summed(t)


def feature_gradients(
    widths: list[int],
    neighbors: Tensor,
    filters: Tensor,
    u: Tensor,
    squares: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
    *features: Tensor,
) -> tuple[Tensor, ...]:
    """Return the derivatives with respect to the filters and to each of the features.

    Those with respect to features are sums over neighbors too. `gradients` are those with respect
    to the sums.
    """
    ds, dv, dt = gradients
    w = filters.split(widths, dim=-1)
    a = [gate[neighbors] for gate in features[0].split(widths[:3], dim=-1)]
    by_gates = [
        (w[0] * ds[neighbors]).sum(1),
        -(w[1] * dot(columns(u), [d[neighbors] for d in dv])).sum(1),
        (w[2] * dot(columns(squares), [d[neighbors] for d in dt])).sum(1),
    ]
    here = [d.unsqueeze(1) for d in dv], [d.unsqueeze(1) for d in dt]
    by_filters = [
        ds.unsqueeze(1) * a[0],
        a[1] * dot(columns(u), here[0]),
        a[2] * dot(columns(squares), here[1]),
    ]
    by_features = []
    if len(features) > 1:
        by_features = [
            summed([w[3] * d[neighbors] for d in dv]),
            summed([w[4] * d[neighbors] for d in dt]),
        ]
        by_filters += [
            dot([other[neighbors] for other in own], d)
            for own, d in zip(features[1:], here, strict=True)
        ]
    return torch.cat(by_filters, dim=-1), torch.cat(by_gates, dim=-1), *by_features


def direction_gradients(
    widths: list[int],
    neighbors: Tensor,
    filters: Tensor,
    gates: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the derivatives with respect to u and squares."""
    _, dv, dt = gradients
    w = filters.split(widths, dim=-1)
    a = [gate[neighbors] for gate in gates.split(widths[:3], dim=-1)]
    by_u = torch.stack([(w[1] * a[1] * d.unsqueeze(1)).sum(-1) for d in dv], dim=-1)
    by_squares = torch.stack([(w[2] * a[2] * d.unsqueeze(1)).sum(-1) for d in dt], dim=-1)
    return by_u, by_squares


class MessageSums(torch.autograd.Function):
    """`message_sums` as an operation whose derivative is a sum over neighbors too."""

    @staticmethod
    def forward(
        ctx: Any,
        widths: list[int],
        neighbors: Tensor,
        filters: Tensor,
        u: Tensor,
        squares: Tensor,
        *features: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums."""
        ctx.widths = widths
        ctx.save_for_backward(neighbors, filters, u, squares, *features)
        return message_sums(widths, neighbors, filters, u, squares, *features)

    @staticmethod
    def backward(ctx: Any, ds: Tensor, dv: Tensor, dt: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivatives."""
        neighbors, filters, u, squares, *features = ctx.saved_tensors
        gradients = ds, dv, dt
        by_filters, *by_features = feature_gradients(
            ctx.widths, neighbors, filters, u, squares, gradients, *features
        )
        by_directions = direction_gradients(ctx.widths, neighbors, filters, features[0], gradients)
        return None, None, by_filters, *by_directions, *by_features


def dot(a: Components | Tensor, b: Components | Tensor) -> Tensor:
    """Return the sum of the products of components."""
    total: Tensor = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def columns(directions: Tensor) -> Components:
    """Return [n, k, m] as m tensors [n, k, 1]."""
    return [directions[..., m : m + 1] for m in range(directions.shape[-1])]


def summed(components: Components) -> Tensor:
    """Return the sums over neighbors of m tensors [n, k, f], shape [m, n, f]."""
    return torch.stack([component.sum(1) for component in components])
