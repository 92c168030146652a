"""The choice of labeled systems to train on, if there are more than training can use."""

from collections.abc import Sequence

import numpy as np

from twinforce.distill.sampling.labels import LabeledGroup

# Share of the chosen systems in which both forces differ most; the others are drawn at random.
_MOST_DIFFERENT = 0.5


def select_groups(
    groups: Sequence[LabeledGroup], n_labels: int, rng: np.random.Generator
) -> list[LabeledGroup]:
    """Return groups with at most this many systems, in their order.

    Half of them are those in which conservative and direct forces differ most, and the others are
    drawn at random. Where no direct forces were computed, all are drawn at random.

    Args:
        groups: All groups.
        n_labels: Number of systems to keep.
        rng: Generator of the random draws.
    """
    if sum(len(group.members) for group in groups) <= n_labels:
        return list(groups)
    differences = np.array([group.disagreement for group in groups])
    by_difference = [int(i) for i in np.argsort(-differences) if np.isfinite(differences[i])]
    chosen: set[int] = set()
    n_left = _take(groups, by_difference, int(_MOST_DIFFERENT * n_labels), chosen)
    n_random = n_labels - int(_MOST_DIFFERENT * n_labels) + n_left
    _take(groups, [int(i) for i in rng.permutation(len(groups))], n_random, chosen)
    return [groups[index] for index in sorted(chosen)]


def _take(
    groups: Sequence[LabeledGroup], order: Sequence[int], n_labels: int, chosen: set[int]
) -> int:
    """Add groups in this order that fit; return the number of systems that are still missing."""
    for index in order:
        size = len(groups[index].members)
        if index not in chosen and size <= n_labels:
            chosen.add(index)
            n_labels -= size
    return n_labels
