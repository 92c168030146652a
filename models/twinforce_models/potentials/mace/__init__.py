"""MACE models, with the network of the package mace-torch."""

# Sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, without which e3nn 0.4 cannot be imported. The variable is
# removed again with the other side effects of loading a model.
import mace  # noqa: F401
