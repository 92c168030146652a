"""Systems as tensors of the Open Inference Protocol, and a service that programs of it use."""

import numpy as np

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.systems import crystal
from twinforce_service.embedded import run_in_thread

PATIENCE = 120.0
SYSTEMS = [crystal(8, seed=1), crystal(3, seed=2)]
INPUTS = {
    "atomic_numbers": np.concatenate([each.atomic_numbers for each in SYSTEMS]),
    "positions": np.concatenate([each.positions for each in SYSTEMS]),
    "n_atoms": np.array([8, 3], np.int32),
    "cell": np.stack([each.cell for each in SYSTEMS]),
    "pbc": np.stack([each.pbc for each in SYSTEMS]),
}


def serve_soft(**settings):
    """Run a service of the model `soft` in a thread."""
    return run_in_thread(free_ports(**settings), lambda: {"soft": loaded(Soft())})
