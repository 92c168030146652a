"""Devices that an engine can have."""

import pytest
import torch

from twinforce_proto import ModelLoadError
from twinforce_service.engine.loading import choose_device


@pytest.mark.parametrize("name", ["cuda:99", "cuda"])
def test_a_gpu_that_is_not_there_is_an_error_that_says_so(name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelLoadError, match=rf"'{name}': expected a GPU, got \d+ that PyTorch"):
        choose_device(name)
