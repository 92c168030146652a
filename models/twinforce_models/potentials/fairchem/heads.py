"""The heads of a network that predict the targets of one task."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from fairchem.core.models.uma import escn_md, escn_moe
from torch import Tensor

from twinforce_models.potentials.fairchem.checkpoint import Target
from twinforce_proto import ModelLoadError

Head: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""(indices of systems and numbers of their atoms, features) -> what the head says."""

_QUANTITIES: dict[Any, str] = {
    escn_md.MLP_EFS_Head: "energy",  # and derivatives, which are not asked of it
    escn_md.MLP_Energy_Head: "energy",
    escn_md.Linear_Energy_Head: "energy",
    escn_md.Linear_Force_Head: "forces",
    escn_md.MLP_Stress_Head: "stress",
}
_OF_EXPERTS, _OF_ONE = (
    escn_moe.DatasetSpecificMoEWrapper,
    escn_moe.DatasetSpecificSingleHeadWrapper,
)


def head_of(network: Any, target: Target, task: str, dtype: torch.dtype) -> Head | None:
    """Return the head that predicts a target; None if the network derives it from the energy.

    Args:
        network: A `HydraModel`. Its heads with experts for several tasks are replaced by those of
            this task.
        target: The target.
        task: Name of the set of data.
        dtype: Data type of the network.

    Raises:
        ModelLoadError: If several heads claim the target.
    """
    found = []
    for name, head in network.output_heads.items():
        is_wrapper = isinstance(head, (_OF_EXPERTS, _OF_ONE))
        inner = head.head if is_wrapper else head
        quantity = _QUANTITIES[type(inner)]
        prefix = getattr(inner, "prefix", None)
        key = f"{prefix}_{quantity}" if prefix else quantity
        said = f"{task}_{key}" if is_wrapper else key
        if quantity != target.quantity or target.name != (
            said if network.pass_through_head_outputs else name
        ):
            continue
        if isinstance(head, _OF_EXPERTS):
            _keep_expert(head, task, dtype)
        found.append((inner, key))
    if len(found) > 1:
        raise ModelLoadError(f"target {target.name}: expected one head, got {len(found)}")
    if not found:
        return None
    inner, key = found[0]

    def call(data: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        said = inner(data, features)[key]
        value: Tensor = said[target.quantity] if isinstance(said, dict) else said
        return value

    return call


def _keep_expert(head: Any, task: str, dtype: torch.dtype) -> None:
    """Replace the layers with experts of a head, one for each task, by those of one task."""
    if head.merged_on_dataset is not None:
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # that of the new layers
    try:
        head.merge_MOLE_model(SimpleNamespace(dataset=[task], pos=torch.zeros(1, dtype=dtype)))
    finally:
        torch.set_default_dtype(before)
    head.head.requires_grad_(False)
