"""The potential of a PET that metatrain has trained, and the loader of its checkpoint.

S. Pozdnyakov, M. Ceriotti, Smooth, exact rotational symmetrization for deep learning on point
clouds, NeurIPS 2023; https://metatrain.readthedocs.io. A checkpoint is a pickle. The loader accepts
weights and a fixed list of declarations only, so that loading a file cannot run code.
"""

from collections.abc import Hashable
from dataclasses import replace
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
from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source
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
"""Classes in a checkpoint besides numbers, strings and tensors: they declare the targets and their
shapes. The C++ class of metatensor or metatomic that a ScriptObject names rebuilds it."""


class PetPotential:
    """A `Potential` around a trained PET.

    Atom energies are in float64, and the energy per element is added last: the dtype of the network
    has too few digits for total energies of several thousand eV.

    Attributes:
        cutoff: Cutoff radius, in Å.
        outputs: Outputs for which the PET has targets.
    """

    def __init__(self, model: PET, device: torch.device, variant: str | None = None) -> None:
        """Wrap a model.

        Args:
            model: PET in the dtype of the potential; it is moved to the device.
            device: Device of the computation.
            variant: Name of one of several energies, with the direct outputs of the same name.

        Raises:
            ModelLoadError: If the model has no such energy, or has parts that only an exported file
                supports.
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
        """Variant of the table evaluation; None if charges or variants need more than tables."""
        is_special = self._names.get(DIRECT_STRESS, "") not in ("", *DIRECT_STRESS.names)
        return None if self.uses_charge or is_special else "rows"

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table of neighbors."""
        vectors = table.vectors.detach().requires_grad_(wanted.gradient)
        with torch.set_grad_enabled(wanted.gradient):
            edges, n_seen = edges_of(self._backend, table, vectors, self._adaptive_width, max_seen)
            features = self._network.features(edges, None)
            energies = self._energies(features, edges) if wanted.energy else None
            gradient: Tensor | None = None
            if energies is not None and wanted.gradient:
                (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        values = AtomValues(None if energies is None else energies.detach(), n_seen=n_seen)
        if gradient is not None:
            reverse = reversed_places(table.neighbors, table.shifts, table.counts)
            forces = gradient.sum(1) - gradient.view(-1, 3)[reverse].sum(1)
            strain_gradients = (vectors.detach().unsqueeze(-1) * gradient.unsqueeze(-2)).sum(1)
            values = replace(values, conservative_forces=forces, strain_gradients=strain_gradients)
        if wanted.direct:
            values = replace(values, **self._direct_values(features, edges))
        return values

    def _energies(self, features: Features, edges: Edges) -> Tensor:
        raw = self._network.read(self._names[ENERGY], features, edges).squeeze(1)
        scaled = raw.to(torch.float64) * self._scales[ENERGY][edges.kinds]
        return scaled + self._references[edges.kinds]

    def _direct_values(self, features: Features, edges: Edges) -> dict[str, Tensor]:
        """Return direct forces and strain gradients of each atom; zeros for a missing head."""
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
        """Return the embedding of charge and spin for each atom, or None if the model has none."""
        embedding = self._backend.system_conditioning
        if embedding is None:
            return None
        charge = whole_number_per_system(batch, "charge")
        spin = whole_number_per_system(batch, "spin_multiplicity")
        _check_range("charge", charge, -embedding.max_charge, embedding.max_charge)
        _check_range("spin_multiplicity", spin, 1, embedding.max_spin_multiplicity)
        condition: Tensor = embedding(charge, spin, batch.system_index)
        return condition

    def _direct(self, features: Features, edges: Edges, batch: Batch) -> DirectHeads:
        forces = stress = None
        if DIRECT_FORCE in self._names:
            forces = self._direct_forces(features, edges)
        if DIRECT_STRESS in self._names:
            stress = self._direct_stress(features, edges, batch)
        return DirectHeads(forces, stress)

    def _direct_stress(self, features: Features, edges: Edges, batch: Batch) -> Tensor:
        """Return the sum over atoms; as in metatrain, it is divided by the volume if no variant."""
        name = self._names[DIRECT_STRESS]
        raw = batch.sum_over_atoms(self._network.read(name, features, edges)).view(-1, 3, 3)
        raw = raw * self._scales[DIRECT_STRESS][0].to(raw.dtype)
        if name not in DIRECT_STRESS.names:
            return raw
        return (raw + raw.transpose(1, 2)) / 2 / batch.volumes[:, None, None]


def load(source: Source, *, variant: str | None = None) -> tuple[PetPotential, dict[str, Any]]:
    """Return the potential in a checkpoint, and the metadata of the checkpoint.

    Args:
        source: Place of the checkpoint.
        variant: See `PetPotential`.

    Raises:
        ModelLoadError: If the file is not a checkpoint of a PET, or contains objects that are not
            safe to load.
    """
    return load_checkpoint(source, source.read(), variant)


def load_checkpoint(
    source: Source, file: ModelFile, variant: str | None
) -> tuple[PetPotential, dict[str, Any]]:
    """Return the potential in a file, as `load` does."""
    checkpoint = read_checkpoint(file)
    try:
        model = model_from_checkpoint(checkpoint, context="export")
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelLoadError(
            f"{file.path}: metatrain cannot load this checkpoint: {error}"
        ) from error
    if source.dtype is not None:
        model = model.to(source.dtype)
    return PetPotential(model.eval(), source.device, variant), {
        **described(model.metadata),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metadata": {"metatrain_targets": list(model.target_names)},
    }


def read_checkpoint(file: ModelFile) -> dict[str, Any]:
    """Return the checkpoint of a PET without running any code that the file names.

    If the PET is wrapped in an uncertainty model, the checkpoint of the PET is returned.
    """
    checkpoint = file.unpickle(_DECLARATIONS)
    name = file.path.name
    if not isinstance(checkpoint, dict) or "architecture_name" not in checkpoint:
        raise ModelLoadError(f"{file.path}: expected a checkpoint of metatrain")
    if checkpoint["architecture_name"] == "llpr":
        checkpoint = checkpoint["wrapped_model_checkpoint"]
    if (architecture := checkpoint["architecture_name"]) != "pet":
        raise ModelLoadError(
            f"{file.path}: expected the architecture 'pet', got {architecture!r}; "
            f"`mtt export {name}` writes a .pt file that can be served"
        )
    pet: dict[str, Any] = checkpoint
    return pet


def _one_atom_of_each(elements: tuple[int, ...]) -> MetatomicSystem:
    return MetatomicSystem(
        torch.tensor(elements, dtype=torch.int32),
        torch.zeros(len(elements), 3, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )


def _composition(model: PET, name: str, elements: tuple[int, ...]) -> Tensor:
    """Return the energy to add for an atom of each element, shape [n_elements], in eV."""
    composition = model.additive_models[0]
    if name not in composition.outputs:
        return torch.zeros(len(elements), dtype=torch.float64)
    requested = {name: ModelOutput(sample_kind="atom")}
    added = composition([_one_atom_of_each(elements)], requested)[name].block()
    energies: Tensor = added.values.reshape(-1)[added.samples.column("atom").long().argsort()]
    return energies


def _scales(model: PET, name: str, elements: tuple[int, ...]) -> Tensor:
    """Return the factor on the raw values of each element, shape [n_elements]."""
    requested = {name: ModelOutput(sample_kind="atom")}
    scales = model.scaler.get_scales([_one_atom_of_each(elements)], requested)[name].block().values
    first: Tensor = scales.reshape(len(elements), -1)[:, 0]
    return first


def _check_range(name: str, values: Tensor, low: int, high: int) -> None:
    outside = (values < low) | (values > high)
    if outside.any():
        index = int(outside.nonzero()[0])
        expected = f"{low} to {high} for this model"
        raise InvalidSystemError.expected(name, expected, int(values[index])).at(index)


def _check_parts(model: PET) -> None:
    parts = {"long-range featurizer": model.long_range, "ZBL": len(model.additive_models) > 1}
    if present := [part for part, is_there in parts.items() if is_there]:
        raise ModelLoadError(
            f"this PET has a {' and a '.join(present)}, which is supported in exported files only; "
            "`mtt export` writes one"
        )
