"""Inference checkpoints of fairchem, read without running anything that they name.

A checkpoint is a pickle of settings and weights. The settings name classes and functions, which
fairchem imports and calls; here a name only selects one of a fixed list.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fairchem.core.models.base import HydraModel
from fairchem.core.models.uma import escn_md, escn_moe
from fairchem.core.models.uma.compat import apply_uma_compat_fixups
from fairchem.core.modules.normalization.element_references import ElementReferences
from fairchem.core.modules.normalization.normalizer import Normalizer
from fairchem.core.units.mlip_unit.api.inference import InferenceSettings, MLIPInferenceCheckpoint
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from torch import Tensor

from twinforce_models.loading.model_file import NUMPY, ModelFile
from twinforce_proto import ModelLoadError

_ALLOWED: list[Any] = [
    *(MLIPInferenceCheckpoint, DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata),
    *((Any, "typing.Any"), dict, list, int, float, str, bool, defaultdict),
    *NUMPY,
]
"""Classes in a checkpoint: itself, and containers of settings."""

_BACKBONES = {
    "escnmd_backbone": escn_md.eSCNMDBackbone,
    "escnmd_moe_backbone": escn_moe.eSCNMDMoeBackbone,
}
_HEADS: tuple[Any, ...] = (
    escn_md.MLP_EFS_Head,
    escn_md.MLP_Energy_Head,
    escn_md.Linear_Energy_Head,
    escn_md.Linear_Force_Head,
    escn_md.MLP_Stress_Head,
    escn_moe.DatasetSpecificMoEWrapper,
    escn_moe.DatasetSpecificSingleHeadWrapper,
)
_VALUES: dict[str, Any] = {
    **{f"{each.__module__}.{each.__name__}": each for each in (Normalizer, ElementReferences)},
    **{f"torch.{name}": getattr(torch, name) for name in ("DoubleTensor", "FloatTensor", "tensor")},
}
"""Classes and functions that make the values of targets."""

_OPTIONS = {"otf_graph", "pass_through_head_outputs", "supports_single_atoms", "model_id"}
"""Settings of a model besides its backbone and heads that matter for inference."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A quantity that a model was trained for, and how it follows from what a head says.

        value = d * output + m + sum of the references of the atoms

    Attributes:
        name: Name of the target, by which a head is found.
        quantity: Kind of the quantity, such as "energy", "forces" or "stress".
        datasets: Names of the sets of data, the tasks of a user of fairchem.
        normalizer: The numbers m and d.
        references: Energies per atomic number, in eV; None if there are none.
    """

    name: str
    quantity: str
    datasets: tuple[str, ...]
    normalizer: Normalizer
    references: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class FairchemCheckpoint:
    """The content of a checkpoint.

    Attributes:
        network: The network with its averaged weights, in the dtype to compute in.
        targets: What it was trained for.
    """

    network: HydraModel
    targets: tuple[Target, ...]


def read(file: ModelFile, dtype: torch.dtype) -> FairchemCheckpoint:
    """Return the network in a checkpoint, built anew, and its targets.

    Args:
        file: The file.
        dtype: Data type to compute in.

    Raises:
        ModelLoadError: If this is no inference checkpoint, or one of another kind of network.
    """
    saved = file.unpickle(_ALLOWED)
    if not isinstance(saved, MLIPInferenceCheckpoint):
        raise ModelLoadError(f"{file.path}: expected an inference checkpoint of fairchem 2")
    saved.model_config = _plain(saved.model_config)
    apply_uma_compat_fixups(saved, str(file.path))
    try:
        with _default_dtype(dtype):
            network = _network(saved.model_config, dtype)
            targets = tuple(_target(each) for each in _plain(saved.tasks_config))
        network.load_state_dict(_weights(saved.ema_state_dict))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{file.path}: not a model that this version of fairchem reads: "
            f"{type(error).__name__}: {error}"
        ) from error
    return FairchemCheckpoint(network.to(dtype).eval().requires_grad_(False), targets)


def _network(config: dict[str, Any], dtype: torch.dtype) -> HydraModel:
    """Return the network that settings describe, with random weights."""
    config = dict(config)
    target = config.pop("_target_", _path(HydraModel))
    if target not in (_path(HydraModel), "hydra"):
        raise ModelLoadError(f"model: expected {_path(HydraModel)}, got {target!r}")
    if named := sorted(_named_in(config)):
        raise ModelLoadError(f"settings of the network: expected values, got {', '.join(named)}")
    backbone = dict(config["backbone"])
    kind = _chosen("backbone", backbone["model"], _BACKBONES)
    settings = InferenceSettings(
        activation_checkpointing=False,
        external_graph_gen=True,
        execution_mode="general",
        base_precision_dtype=dtype,
    )
    heads = {each.__name__: each for each in _HEADS}
    for head in config["heads"].values():
        _chosen("head", head["module"], heads)
        if "head_cls" in head:
            _chosen("head", head["head_cls"], heads)
    return HydraModel(
        backbone=backbone | kind.build_inference_settings(settings),
        heads=config["heads"],
        **{key: value for key, value in config.items() if key in _OPTIONS},
    )


def _chosen(what: str, name: object, known: dict[str, Any]) -> Any:
    """Return the class that a name selects, a short one or a path."""
    for short, each in known.items():
        if name in (short, _path(each)):
            return each
    raise ModelLoadError(
        f"{what}: expected one of {', '.join(each.__name__ for each in known.values())}, "
        f"got {name!r}"
    )


def _target(config: dict[str, Any]) -> Target:
    """Return a target; its loss and metrics, which also name classes, are left out."""
    references = config.get("element_references")
    return Target(
        config["name"],
        config["property"],
        tuple(config["datasets"]),
        _value(config["normalizer"]),
        None if references is None else _value(references).element_references.double(),
    )


def _value(config: Any) -> Any:
    """Return what settings make, if everything that they name is known to be harmless."""
    if isinstance(config, list):
        return [_value(each) for each in config]
    if not isinstance(config, dict):
        return config
    values = {key: _value(each) for key, each in config.items()}
    name, arguments = values.pop("_target_", None), values.pop("_args_", [])
    if name not in _VALUES:
        raise ModelLoadError(
            f"targets: expected numbers made by {', '.join(_VALUES)}, got {name!r}"
        )
    return _VALUES[name](*arguments, **values)


def _weights(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return averaged weights under the names of the network's own."""
    found = {key: value for key, value in saved.items() if key != "n_averaged"}
    while found and all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    return found


def _plain(config: Any) -> Any:
    """Return settings as dictionaries and lists; nothing in them is resolved."""
    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=False)
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(each) for each in config] if isinstance(config, (list, tuple)) else config


def _named_in(config: Any) -> Iterator[str]:
    """Yield the names of everything that settings ask to be called."""
    values = config.values() if isinstance(config, dict) else config
    if isinstance(config, dict) and "_target_" in config:
        yield str(config["_target_"])
    if isinstance(config, (dict, list)):
        for value in values:
            yield from _named_in(value)


def _path(named: type) -> str:
    return f"{named.__module__}.{named.__qualname__}"


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the default dtype, in which constants of the network are computed when it is made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
