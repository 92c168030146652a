"""Reading of MACE files, which are pickles of whole networks, without running any code in them.

Only the settings and weights in the file are used. Every class of mace and e3nn that it names is
replaced by one that does nothing but hold attributes, and the network is built anew by mace.
"""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from e3nn import o3
from mace.modules import ScaleShiftMACE, interaction_classes, readout_classes
from mace.tools.scripts_utils import extract_config_mace_model

from twinforce_models.loading.model_file import NUMPY, ModelFile, unsafe_names
from twinforce_proto import ModelLoadError

_REPLACED = ("mace.", "e3nn.", "torch.fx.")
"""Beginnings of the names that are replaced; torch.fx holds source code that e3nn has compiled."""

_KEPT: dict[str, Any] = {
    "e3nn.o3._irreps.Irrep": o3.Irrep,
    "e3nn.o3._irreps.Irreps": o3.Irreps,
    "e3nn.o3._irreps._MulIr": type(o3.Irreps("0e")[0]),
    **{f"torch.{name}": getattr(torch, name) for name in ("abs", "sigmoid", "tanh")},
    **{
        f"torch.nn.functional.{name}": getattr(torch.nn.functional, name)
        for name in ("elu", "gelu", "relu", "sigmoid", "silu", "softplus", "tanh")
    },
}
"""Values and functions without side effects that settings are made of."""

_DERIVED = re.compile(r"\._compiled_main|_zeroed$")
"""Names of constants of compiled code, and of flags that files of former versions lack: they follow
from settings and weights."""


class Part(torch.nn.Module):
    """A part of a network in a file: its attributes, but none of its behavior."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


class Values(tuple[Any, ...]):
    """A named tuple in a file, such as an instruction of a tensor product, without the names."""

    __slots__ = ()

    def __new__(cls, *values: object) -> "Values":
        """Return the values."""
        return super().__new__(cls, values)


def read_network(file: ModelFile, dtype: torch.dtype | None) -> torch.nn.Module:
    """Return the network in a file, built anew from its settings and weights.

    Args:
        file: A file that `torch.save` wrote of a network.
        dtype: Data type of the network. None keeps that of the file.

    Raises:
        ModelLoadError: If the file is not a network that can be built anew.
    """
    saved = file.unpickle([*NUMPY, *_allowed(file)])
    if (kind := type(saved).__name__) != "ScaleShiftMACE":
        raise ModelLoadError(
            f"{file.path}: expected a network of the class ScaleShiftMACE, as the published models "
            f"have and as mace trains for energies and forces, got {kind}"
        )
    config = extract_config_mace_model(saved)
    for key in ("interaction_cls", "interaction_cls_first"):
        config[key] = _class_named(config[key], interaction_classes, file)
    config["readout_cls"] = _class_named(config["readout_cls"], readout_classes, file)
    torch.set_default_dtype(saved.r_max.dtype)  # restored with other side effects of loading
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, about the code of e3nn
        network: torch.nn.Module = ScaleShiftMACE(**config)
    _copy_weights(saved, network, file)
    network.to(dtype or saved.r_max.dtype)
    return network


def _allowed(file: ModelFile) -> Iterator[tuple[Any, str]]:
    """Yield for each global name in the file what takes its place, unless it is refused."""
    try:
        names = unsafe_names(file.content)
    except Exception:  # not a file that torch can list: `unpickle` tells why
        return
    for name in names:
        kind = name.rpartition(".")[2]
        if name in _KEPT:
            yield _KEPT[name], name
        elif name.startswith("torch.nn.modules."):
            if isinstance(module := getattr(torch.nn, kind, None), type):
                yield module, name
        elif name.startswith(_REPLACED):
            yield type(kind, (Values if kind == "Instruction" else Part,), {}), name


def _class_named(found: type, known: dict[str, Any], file: ModelFile) -> Any:
    if found.__name__ not in known:
        raise ModelLoadError(
            f"{file.path}: expected a layer that the installed mace has, one of "
            f"{', '.join(known)}, got {found.__name__}"
        )
    return known[found.__name__]


def _copy_weights(saved: torch.nn.Module, network: torch.nn.Module, file: ModelFile) -> None:
    """Copy all weights, and raise unless the two networks have the same."""
    missing, unexpected = network.load_state_dict(saved.state_dict(), strict=False)
    if wrong := [*unexpected, *(key for key in missing if not _DERIVED.search(key))]:
        raise ModelLoadError(
            f"{file.path}: the network that the installed mace builds from the settings in this "
            f"file has other weights than the file: {', '.join(wrong[:5])}"
        )
