"""The angles of a batch are those of its systems."""

import numpy as np
import torch

from twinforce_models.batch import Batch
from twinforce_models.potentials.angles import angles_within, pairs_within
from twinforce_proto import System


def test_pairs_within_groups_are_all_pairs():
    groups = torch.tensor([0, 0, 2, 3, 3, 3])
    first, second = pairs_within(groups, 5)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert found == {
        (a, b) for a in range(6) for b in range(6) if a != b and groups[a] == groups[b]
    }
    assert len(first) == len(found)
    assert [len(each) for each in pairs_within(groups[:0], 3)] == [0, 0]


def test_angles_share_a_center_and_their_pairs_are_short():
    """An atom has six images at 2 Å in a cubic cell, and twelve more at 2.8 Å."""
    crystal = System([8], [[0.3, 0, 0]], 2.0 * np.eye(3), True)
    batch = Batch.from_systems([crystal, System([8], [[0, 0, 0]]), crystal], 2.9)
    lengths = batch.displacements().norm(dim=1)
    first, second = angles_within(batch, lengths, 2.1)
    assert len(first) == 2 * 6 * 5
    assert torch.equal(batch.pairs[0][first], batch.pairs[0][second])
    assert float(lengths[first].max()) < 2.1
    assert torch.equal(first, first.sort().values)
    every, _ = angles_within(batch, lengths, 2.9)
    assert len(every) == 2 * 18 * 17
