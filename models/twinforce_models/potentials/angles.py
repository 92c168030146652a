"""Angles between neighbors of an atom, for networks that use them, for a whole batch at once."""

import torch
from torch import Tensor

from twinforce_models.batch import Batch


def angles_within(batch: Batch, lengths: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return the rows of the two pairs of each angle: different short pairs of the same center.

    Each angle is listed from both of its pairs, sorted by the first.

    Args:
        batch: The batch.
        lengths: Length of each pair, in Å.
        cutoff: Largest length of both pairs, in Å.
    """
    near = (lengths.detach() <= cutoff).nonzero().squeeze(1)
    first, second = pairs_within(batch.pairs[0].index_select(0, near), batch.n_atoms)
    return near.index_select(0, first), near.index_select(0, second)


def pairs_within(groups: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Return all ordered pairs of different rows of the same group.

    Args:
        groups: The group of each row, sorted.
        n_groups: Number of groups.
    """
    sizes = torch.bincount(groups, minlength=n_groups)
    partners = sizes.index_select(0, groups)  # of each row, including itself
    first = torch.repeat_interleave(partners)
    begins = (partners.cumsum(0) - partners).index_select(0, first)
    place = torch.arange(len(first), device=groups.device) - begins
    starts = (sizes.cumsum(0) - sizes).index_select(0, groups)
    second = starts.index_select(0, first) + place
    differ = (first != second).nonzero().squeeze(1)
    return first[differ], second[differ]
