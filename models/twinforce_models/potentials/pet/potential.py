"""PET checkpoints of metatrain, evaluated on plain tensors.

S. Pozdnyakov, M. Ceriotti, Smooth, exact rotational symmetrization for deep learning on point
clouds, NeurIPS 2023; https://metatrain.readthedocs.io. A checkpoint is a pickle, and is read as
one that may hold weights and a fixed list of declarations, nothing that could run.
"""

from collections.abc import Hashable
from dataclasses import replace
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
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import DirectHeads, Heads
from twinforce_models.potentials.metatomic import described
from twinforce_models.potentials.pet.edges import Edges, find_edges
from twinforce_models.potentials.pet.network import Features, PetNetwork
from twinforce_models.potentials.pet.table import edges_of
from twinforce_models.potentials.quantities import (
    DIRECT_FORCE,
    DIRECT_STRESS,
    ENERGY,
    offered_outputs,
    pick,
    whole_number_per_system,
)
from twinforce_models.tables.search import reversed_places
from twinforce_models.tables.table import AtomValues, Table, Wanted
from twinforce_proto import InvalidSystemError, ModelLoadError

_DECLARATIONS = [DatasetInfo, TargetInfo, torch.ScriptObject]
"""What a checkpoint holds besides numbers, strings and tensors: which targets it has, in which
shape. A ScriptObject is rebuilt by the C++ class of metatensor or metatomic that it names."""


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
        self._network = PetNetwork(self._backend)
        self._adaptive_width = float(model.cutoff_width_adaptive)
        self.device = device
        self.dtype = next(self._backend.parameters()).dtype
        self.cutoff = float(model.cutoff)
        self.outputs = offered_outputs(self._names)
        self.uses_charge = self.uses_spin = model.system_conditioning is not None

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        edges, features = self._features(batch)
        energies = self._energies(features, edges)
        if not direct:
            return Heads(energies)
        own = self._direct(features, edges, batch)
        return Heads(energies, own.direct_forces, own.direct_stress)

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate a batch without the energy."""
        edges, features = self._features(batch)
        return self._direct(features, edges, batch)

    @property
    def table_variant(self) -> Hashable:
        """What it evaluates a table with; None where charges, spins or variants ask for more."""
        is_special = self._names.get(DIRECT_STRESS, "") not in ("", *DIRECT_STRESS.names)
        return None if self.uses_charge or is_special else "rows"

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table."""
        vectors = table.vectors().detach().requires_grad_(wanted.gradient)
        with torch.set_grad_enabled(wanted.gradient):
            edges, n_seen = edges_of(self._backend, table, vectors, self._adaptive_width, max_seen)
            features = self._network.features(edges, None)
            energies = self._energies(features, edges) if wanted.energy else None
            pull: Tensor | None = None
            if energies is not None and wanted.gradient:
                (pull,) = torch.autograd.grad(energies.sum(), vectors)
        values = AtomValues(None if energies is None else energies.detach(), n_seen=n_seen)
        if pull is not None:
            reverse = reversed_places(table.neighbors, table.shifts, table.counts)
            forces = pull.sum(1) - pull.view(-1, 3)[reverse].sum(1)
            strain_gradients = (vectors.detach().unsqueeze(-1) * pull.unsqueeze(-2)).sum(1)
            values = replace(values, conservative_forces=forces, strain_gradients=strain_gradients)
        if wanted.direct:
            values = replace(values, **self._direct_values(features, edges))
        return values

    def _energies(self, features: Features, edges: Edges) -> Tensor:
        raw = self._network.read(self._names[ENERGY], features, edges).squeeze(1)
        scaled = raw.to(torch.float64) * self._scales[ENERGY][edges.kinds]
        return scaled + self._references[edges.kinds]

    def _direct_values(self, features: Features, edges: Edges) -> dict[str, Tensor]:
        """Return direct forces and strain gradients of each atom; zeros for a head it lacks."""
        n_atoms, device = len(edges.kinds), edges.kinds.device
        forces = torch.zeros(n_atoms, 3, dtype=self.dtype, device=device)
        strain_gradients = torch.zeros(n_atoms, 3, 3, dtype=self.dtype, device=device)
        if DIRECT_FORCE in self._names:
            forces = self._direct_forces(features, edges).detach()
        if DIRECT_STRESS in self._names:
            raw = self._network.read(self._names[DIRECT_STRESS], features, edges).detach()
            scale = self._scales[DIRECT_STRESS][0].to(raw.dtype)
            strain_gradients = (raw * scale).view(-1, 3, 3)
        return {"direct_forces": forces, "direct_strain_gradients": strain_gradients}

    def _direct_forces(self, features: Features, edges: Edges) -> Tensor:
        raw = self._network.read(self._names[DIRECT_FORCE], features, edges)
        scales = self._scales[DIRECT_FORCE].to(raw.dtype)
        return raw * scales.index_select(0, edges.kinds).unsqueeze(1)

    def _features(self, batch: Batch) -> tuple[Edges, Features]:
        edges = find_edges(self._backend, batch, self._adaptive_width)
        return edges, self._network.features(edges, self._condition(batch))

    def _condition(self, batch: Batch) -> Tensor | None:
        """Return what charge and spin add to the features of each atom."""
        known = self._backend.system_conditioning
        if known is None:
            return None
        charge = whole_number_per_system(batch, "charge")
        spin = whole_number_per_system(batch, "spin_multiplicity")
        _check_range("charge", charge, -known.max_charge, known.max_charge)
        _check_range("spin_multiplicity", spin, 1, known.max_spin_multiplicity)
        added: Tensor = known(charge, spin, batch.system_index)
        return added

    def _direct(self, features: Features, edges: Edges, batch: Batch) -> DirectHeads:
        forces = stress = None
        if DIRECT_FORCE in self._names:
            forces = self._direct_forces(features, edges)
        if DIRECT_STRESS in self._names:
            stress = self._direct_stress(features, edges, batch)
        return DirectHeads(forces, stress)

    def _direct_stress(self, features: Features, edges: Edges, batch: Batch) -> Tensor:
        """Return the sum over atoms, over the volume if it is no variant: as metatrain does."""
        name = self._names[DIRECT_STRESS]
        raw = batch.sum_over_atoms(self._network.read(name, features, edges)).view(-1, 3, 3)
        raw = raw * self._scales[DIRECT_STRESS][0].to(raw.dtype)
        if name not in DIRECT_STRESS.names:
            return raw
        return (raw + raw.transpose(1, 2)) / 2 / batch.volumes[:, None, None]


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
