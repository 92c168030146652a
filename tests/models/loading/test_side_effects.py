"""Loading a model of another package leaves the global state of the process as it was."""

import contextlib
import logging
import os
import random
import warnings
from operator import attrgetter

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
torch.backends.cudnn.allow_tf32 = False
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


FP32 = (
    "",
    *("cudnn.", "cudnn.conv.", "cudnn.rnn.", "cuda.matmul."),
    *("mkldnn.", "mkldnn.matmul.", "mkldnn.conv.", "mkldnn.rnn."),
)


def precisions():
    return {name: attrgetter(f"{name}fp32_precision")(torch.backends) for name in FP32}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch is older than 2.9")
@pytest.mark.parametrize("name", FP32)
@pytest.mark.parametrize("old", [None, "high", "highest"])
def test_precisions_of_the_newer_interface_are_undone(name, old):
    before = precisions(), state()
    with undone_side_effects():
        owner = attrgetter(name[:-1])(torch.backends) if name else torch.backends
        owner.fp32_precision = "ieee" if before[0][name] == "tf32" else "tf32"
        assert precisions() != before[0]
        if old is not None:
            torch.set_float32_matmul_precision(old)
    assert (precisions(), state()) == before
    with undone_side_effects():
        torch.set_float32_matmul_precision("high")
    assert precisions() == before[0]


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
