"""Loading a model of another package leaves the global state of the process as it was."""

import contextlib
import logging
import os
import random
import warnings

import numpy as np
import pytest
import torch

from tests.models.loading.packages import install
from twinforce_models import registry
from twinforce_models.loading.side_effects import undone_side_effects
from twinforce_proto import ModelLoadError

CODE = """
import logging, os, random, warnings
import numpy as np
import torch

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
os.environ["HOME"] = "/nowhere"
del os.environ["TWINFORCE_TEST"]
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
torch.use_deterministic_algorithms(True)
torch.set_grad_enabled(False)
torch.set_num_threads(3)
torch.manual_seed(7)
random.seed(7)
np.random.seed(7)
torch.multiprocessing.set_sharing_strategy("file_system")
warnings.simplefilter("ignore")
logging.basicConfig(level=logging.DEBUG, force=True)
print("a banner")


def load(source):
    raise ValueError("done")
"""


def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "Python's random": random.getstate(),
        "numpy's random": [np.asarray(each).tolist() for each in np.random.get_state()],
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "warnings": list(warnings.filters),
        "level": root.level,
        "handlers": list(root.handlers),
    }


def test_whatever_a_package_changes_is_undone(monkeypatch, tmp_path, capsys):
    install(monkeypatch, tmp_path, "rude", CODE, "[twinforce.families]\nrude = rude:load\n")
    monkeypatch.setenv("TWINFORCE_TEST", "1")
    before = state()
    with pytest.raises(ModelLoadError, match="ValueError: done"):
        registry.load("rude:x")
    assert state() == before
    assert capsys.readouterr().out == ""


def test_what_is_unchanged_is_not_set_again():
    torch.ones(1)
    with undone_side_effects():
        pass
    assert torch.utils._device.CURRENT_DEVICE is None  # a default device would slow all calls


def test_state_is_restored_after_an_error():
    with contextlib.suppress(KeyError), undone_side_effects():
        torch.set_default_dtype(torch.float64)
        raise KeyError
    assert torch.get_default_dtype() == torch.float32
