"""PET checkpoints of metatrain, evaluated by metatrain's own backend of plain tensors.

S. Pozdnyakov, M. Ceriotti, Smooth, exact rotational symmetrization for deep learning on point
clouds, NeurIPS 2023; https://metatrain.readthedocs.io. A checkpoint is a pickle, and is read as
one that may hold weights and a fixed list of declarations, nothing that could run.
"""

import copy
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from metatomic.torch import ModelOutput
from metatomic.torch import System as MetatomicSystem
from metatrain.pet import PET
from metatrain.utils.data.dataset import DatasetInfo
from metatrain.utils.data.target_info import TargetInfo
from metatrain.utils.io import model_from_checkpoint
from torch import Tensor, nn

from twinforce_models.batch import Batch
from twinforce_models.potential import Heads
from twinforce_models.potentials.metatomic import described
from twinforce_models.potentials.quantities import (
    DIRECT_FORCE,
    DIRECT_STRESS,
    ENERGY,
    offered_outputs,
    pick,
    whole_number_per_system,
)
from twinforce_proto import InvalidSystemError, ModelLoadError

_DECLARATIONS = [DatasetInfo, TargetInfo, torch.ScriptObject]
"""What a checkpoint holds besides numbers, strings and tensors: which targets it has, in which
shape. A ScriptObject is rebuilt by the C++ class of metatensor or metatomic that it names."""

_HEADS = ("node_heads", "edge_heads", "node_last_layers", "edge_last_layers")


class PetPotential:
    """A `Potential` around a trained PET.

    The atom energies come in float64, with the energy per element added last: the network's own
    dtype would cut the digits off a total energy of some thousand eV.

    Attributes:
        cutoff: In Å; atoms further away matter only through others.
        outputs: What it has targets for.
    """

    def __init__(self, model: PET, device: torch.device, variant: str | None = None) -> None:
        """Wrap a model.

        Args:
            model: In the dtype that the potential shall have; it is moved to the device.
            device: Where to compute.
            variant: Which of several energies, and the direct outputs of the same name.

        Raises:
            ModelLoadError: It has no such energy, or parts that only an exported file can serve.
        """
        _check_parts(model)
        self._names = pick(model.target_names, variant)
        self.elements = tuple(int(z) for z in sorted(model.atomic_types))
        order = tuple(int(z) for z in model.atomic_types)
        self._references = _composition(model, self._names[ENERGY], order).to(device)
        self._scales = {
            quantity: _scales(model, name, order).to(device)
            for quantity, name in self._names.items()
        }
        self._backend = model.backend.to(device).eval().requires_grad_(False)
        self._energy_backend = _with_heads(self._backend, {self._names[ENERGY]})
        self._full_backend = _with_heads(self._backend, set(self._names.values()))
        self._adaptive_width = float(model.cutoff_width_adaptive)
        self.device = device
        self.dtype = next(self._backend.parameters()).dtype
        self.cutoff = float(model.cutoff)
        self.outputs = offered_outputs(self._names)
        self.uses_charge = self.uses_spin = model.system_conditioning is not None

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        backend = self._full_backend if direct else self._energy_backend
        raw = self._raw(backend, batch, list(self._names.values()) if direct else [])
        kinds = backend.species_to_species_index.index_select(0, batch.atomic_numbers)
        energies = raw[self._names[ENERGY]].reshape(-1).to(torch.float64)
        energies = energies * self._scales[ENERGY][kinds] + self._references[kinds]
        if not direct:
            return Heads(energies)
        return Heads(energies, self._direct_forces(raw, kinds), self._direct_stress(raw, batch))

    def _raw(self, backend: Any, batch: Batch, names: list[str]) -> dict[str, Tensor]:
        """Return per-atom values of the outputs, as the network gives them."""
        i, j = batch.pairs
        cells = batch.cells * batch.pbc.unsqueeze(-1)
        shifts = batch.shifts.round().to(torch.int64)
        arrays = backend.preprocess(
            batch.positions,
            i,
            j,
            batch.atomic_numbers,
            cells,
            shifts,
            batch.system_index,
            self._adaptive_width,
        )
        if self.uses_charge:
            arrays |= self._conditions(backend, batch)
        node, edge = backend.calculate_features(arrays)
        wanted = names or [self._names[ENERGY]]
        values, _, _ = backend.predict(node, edge, arrays, cells, batch.system_index, wanted)
        return {name: blocks[0] for name, blocks in values.items()}

    def _conditions(self, backend: Any, batch: Batch) -> dict[str, Tensor]:
        known = backend.system_conditioning
        charge = whole_number_per_system(batch, "charge")
        spin = whole_number_per_system(batch, "spin_multiplicity")
        _check_range("charge", charge, -known.max_charge, known.max_charge)
        _check_range("spin_multiplicity", spin, 1, known.max_spin_multiplicity)
        return {
            "charge": charge,
            "spin_multiplicity": spin,
            "system_indices": batch.system_index,
        }

    def _direct_forces(self, raw: dict[str, Tensor], kinds: Tensor) -> Tensor | None:
        if DIRECT_FORCE not in self._names:
            return None
        forces = raw[self._names[DIRECT_FORCE]].reshape(-1, 3)
        return forces * self._scales[DIRECT_FORCE][kinds].unsqueeze(1).to(forces.dtype)

    def _direct_stress(self, raw: dict[str, Tensor], batch: Batch) -> Tensor | None:
        if DIRECT_STRESS not in self._names:
            return None
        stress = batch.sum_over_atoms(raw[self._names[DIRECT_STRESS]].reshape(-1, 3, 3))
        return stress * self._scales[DIRECT_STRESS][0].to(stress.dtype)


def load(
    path: Path, device: torch.device, dtype: torch.dtype | None, variant: str | None = None
) -> tuple[PetPotential, dict[str, Any]]:
    """Return the potential in a checkpoint, and what the checkpoint says of itself.

    Args:
        path: Of the `.ckpt` file.
        device: To put it on.
        dtype: To compute in. None: that of the checkpoint.
        variant: See `PetPotential`.

    Raises:
        ModelLoadError: It is not a PET, or holds what is not read from a pickle.
    """
    checkpoint = read_checkpoint(path)
    try:
        model = model_from_checkpoint(checkpoint, context="export")
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{path}: metatrain cannot read it: {error}") from error
    if dtype is not None:
        model = model.to(dtype)
    return PetPotential(model.eval(), device, variant), {
        **described(model.metadata),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metadata": {"metatrain_targets": list(model.target_names)},
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint of a PET, without running anything that the file may name.

    Of a PET with an uncertainty model around it, the PET.
    """
    try:
        with torch.serialization.safe_globals(_DECLARATIONS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelLoadError(
            f"{path}: it holds {_unknown_global(path, error)}, and loading that could run "
            f"anything; if you trust its author, `mtt export {path.name}` makes a .pt of it"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ModelLoadError(f"{path}: not a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "architecture_name" not in checkpoint:
        raise ModelLoadError(f"{path}: not a checkpoint of metatrain")
    if checkpoint["architecture_name"] == "llpr":
        checkpoint = checkpoint["wrapped_model_checkpoint"]
    if (architecture := checkpoint["architecture_name"]) != "pet":
        raise ModelLoadError(
            f"{path}: expected the architecture 'pet', got {architecture!r}; "
            f"`mtt export {path.name}` makes a .pt that can be served"
        )
    pet: dict[str, Any] = checkpoint
    return pet


def _unknown_global(path: Path, error: UnpicklingError) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, UnpicklingError):
        return str(error)
    known = {f"{kind.__module__}.{kind.__name__}" for kind in _DECLARATIONS}
    return ", ".join(sorted({*found} - known - {"torch.ScriptObject"})) or str(error)


def _with_heads(backend: Any, names: Collection[str]) -> Any:
    """Return a backend that shares all weights but evaluates the heads of these targets only."""
    lighter = copy.copy(backend)
    lighter._modules = dict(backend._modules)
    for kind in _HEADS:
        heads = getattr(backend, kind)
        lighter._modules[kind] = nn.ModuleDict({n: heads[n] for n in heads if n in names})
    return lighter


def _one_atom_of_each(elements: tuple[int, ...]) -> MetatomicSystem:
    return MetatomicSystem(
        torch.tensor(elements, dtype=torch.int32),
        torch.zeros(len(elements), 3, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )


def _composition(model: PET, name: str, elements: tuple[int, ...]) -> Tensor:
    """Return the energy per element that is added to the network's, shape [n_elements], in eV."""
    composition = model.additive_models[0]
    if name not in composition.outputs:
        return torch.zeros(len(elements), dtype=torch.float64)
    wanted = {name: ModelOutput(sample_kind="atom")}
    added = composition([_one_atom_of_each(elements)], wanted)[name].block()
    energies: Tensor = added.values.reshape(-1)[added.samples.column("atom").long().argsort()]
    return energies


def _scales(model: PET, name: str, elements: tuple[int, ...]) -> Tensor:
    """Return what each element's raw values are multiplied by, shape [n_elements]."""
    wanted = {name: ModelOutput(sample_kind="atom")}
    scales = model.scaler.get_scales([_one_atom_of_each(elements)], wanted)[name].block().values
    first: Tensor = scales.reshape(len(elements), -1)[:, 0]
    return first


def _check_range(name: str, values: Tensor, low: int, high: int) -> None:
    outside = (values < low) | (values > high)
    if outside.any():
        index = int(outside.nonzero()[0])
        raise InvalidSystemError(
            f"{name}: this model knows {low} to {high}, got {int(values[index])}",
            system_index=index,
            field=name,
        )


def _check_parts(model: PET) -> None:
    parts = {"long-range featurizer": model.long_range, "ZBL": len(model.additive_models) > 1}
    if present := [part for part, is_there in parts.items() if is_there]:
        raise ModelLoadError(
            f"this PET has a {' and a '.join(present)}, which is served from an exported file "
            f"only: `mtt export` makes one"
        )
