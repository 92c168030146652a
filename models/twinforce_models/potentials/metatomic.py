"""Exported metatomic models, evaluated through metatomic's own interface.

https://docs.metatensor.org/metatomic: a model is a TorchScript archive that declares its
capabilities: outputs and their units, elements, devices, neighbor lists. Loading such a file runs a
program, so its author must be trusted like the author of a package.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelEvaluationOptions,
    ModelOutput,
    NeighborListOptions,
    load_atomistic_model,
)
from metatomic.torch import System as MetatomicSystem
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.source import Source
from twinforce_models.potential import DirectHeads, Heads
from twinforce_models.potentials.extensions import import_extensions
from twinforce_models.potentials.quantities import (
    DIRECT_FORCE,
    DIRECT_STRESS,
    ENERGY,
    Quantity,
    named,
    offered_outputs,
    pick,
    whole_number_per_system,
)
from twinforce_proto import ModelLoadError

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_NO_NEIGHBORS = 1.0
"""Cutoff of a model that does not request a neighbor list, in Å."""

_PAIR_NAMES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
_INPUTS = {"charge": "e", "spin_multiplicity": ""}


@dataclass(frozen=True, slots=True)
class _RequestedOutput:
    """An output to request: its name, and whether it has one value per atom or per system."""

    name: str
    quantity: Quantity
    sample_kind: str

    def option(self) -> ModelOutput:
        return ModelOutput(unit=self.quantity.unit, sample_kind=self.sample_kind)


class MetatomicPotential:
    """A `Potential` around an exported model.

    Attributes:
        cutoff: Cutoff of the longest neighbor list that the model requests, in Å.
        outputs: The declared outputs, under the names of `OUTPUTS`.
        outputs_if_periodic: The direct stress: along open directions, an exported model receives
            lattice vectors of zero, and so it knows no volume.
    """

    outputs_if_periodic = frozenset({"direct_stress"})

    def __init__(
        self, model: AtomisticModel, device: torch.device, variant: str | None = None
    ) -> None:
        """Wrap a model.

        Args:
            model: The model, as `load_atomistic_model` returns it.
            device: A device that the model supports.
            variant: Name of one of several energies, and of the direct outputs that belong to it.

        Raises:
            ModelLoadError: If the model has no such energy, or needs inputs that TwinForce does not
                provide.
        """
        capabilities = model.capabilities()
        _check_device(device, capabilities.supported_devices)
        _check_inputs(model.requested_inputs(use_new_names=True))
        found = pick(list(capabilities.outputs), variant)
        self._model = model.to(device)
        self._lists = list(model.requested_neighbor_lists())
        self._inputs = sorted(model.requested_inputs(use_new_names=True))
        self._energy = _requested_output(found[ENERGY], ENERGY, capabilities.outputs)
        self._direct = [
            _requested_output(found[quantity], quantity, capabilities.outputs)
            for quantity in (DIRECT_FORCE, DIRECT_STRESS)
            if quantity in found
        ]
        self.device = device
        self.dtype = _DTYPES[capabilities.dtype]
        self.cutoff = max(
            (options.engine_cutoff("angstrom") for options in self._lists), default=_NO_NEIGHBORS
        )
        self.elements = tuple(sorted(z for z in capabilities.atomic_types if 1 <= z <= 118))
        self.outputs = offered_outputs(found) - (
            frozenset() if self._energy.sample_kind == "atom" else {"atom_energies"}
        )
        self.uses_charge = "charge" in self._inputs
        self.uses_spin = "spin_multiplicity" in self._inputs

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        values = self._evaluated(batch, [self._energy, *(self._direct if direct else ())])
        direct_heads = _direct_heads(values)
        kind = "atom_energies" if self._energy.sample_kind == "atom" else "energy"
        return Heads(
            **{kind: values[ENERGY].reshape(-1)},
            direct_forces=direct_heads.direct_forces,
            direct_stress=direct_heads.direct_stress,
        )

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate a batch without requesting the energy."""
        return _direct_heads(self._evaluated(batch, self._direct))

    def _evaluated(
        self, batch: Batch, requested: Sequence[_RequestedOutput]
    ) -> dict[Quantity, Tensor]:
        options = ModelEvaluationOptions(
            length_unit="angstrom", outputs={item.name: item.option() for item in requested}
        )
        results = self._model(self._systems(batch), options, check_consistency=False)
        return {item.quantity: _values(results[item.name], item, batch) for item in requested}

    def _systems(self, batch: Batch) -> list[MetatomicSystem]:
        """Return the systems of a batch with all the inputs that the model requests."""
        if not torch.is_grad_enabled():  # metatomic warns if only positions require grad
            batch = replace(batch, positions=batch.positions.detach(), cells=batch.cells.detach())
        batch = gathered(batch)
        types = batch.atomic_numbers.to(torch.int32).split(list(batch.n_atoms_per_system))
        positions = batch.positions.to(self.dtype).split(list(batch.n_atoms_per_system))
        cells = (batch.cells * batch.pbc.unsqueeze(-1)).to(self.dtype)
        systems = [
            MetatomicSystem(*parts)
            for parts in zip(types, positions, cells, batch.pbc, strict=True)
        ]
        for options in self._lists:
            blocks = neighbor_blocks(batch, options)
            for system, block in zip(systems, blocks, strict=True):
                system.add_neighbor_list(options, block)
        for name in self._inputs:
            numbers = whole_number_per_system(batch, name).to(self.dtype)
            for system, number in zip(systems, numbers, strict=True):
                system.add_data(name, _one_number(name, number))
        return systems


def gathered(batch: Batch) -> Batch:
    """Return the batch with the atoms of each system at their images nearest to the first atom.

    The first atom is at the origin, because an exported model may subtract positions again, in its
    own precision, which is better the smaller they are.
    """
    with torch.no_grad():
        periods = batch.cells * batch.pbc.unsqueeze(-1)
        apart = batch.positions - batch.to_atoms(batch.positions.index_select(0, _firsts(batch)))
        inverses = batch.to_atoms(torch.linalg.pinv(periods))
        jumps = (apart.unsqueeze(1) @ inverses).squeeze(1).round()
        i, j = batch.pairs
        shifts = batch.shifts + jumps.index_select(0, j) - jumps.index_select(0, i)
        constant = apart - batch.positions
    moved = (jumps.unsqueeze(1) @ batch.to_atoms(batch.cells)).squeeze(1)
    return replace(batch, positions=batch.positions + constant - moved, shifts=shifts)


def neighbor_blocks(batch: Batch, options: NeighborListOptions) -> list[TensorBlock]:
    """Return each system's neighbors as a metatensor block, differentiable.

    Args:
        batch: Its pairs must reach at least as far as the requested list.
        options: The cutoff, and whether each pair is listed from both ends.
    """
    i, j = batch.pairs
    vectors = batch.displacements()
    shifts = batch.shifts.round().to(torch.int32)
    owner = batch.system_index.index_select(0, i)
    local = (batch.pairs - _firsts(batch).index_select(0, owner)).T.to(torch.int32)
    samples, counts = torch.cat([local, shifts], dim=1), list(batch.n_pairs_per_system)
    keep = vectors.detach().norm(dim=1) < options.engine_cutoff("angstrom")
    if not options.full_list:
        keep &= (i < j) | ((i == j) & _is_positive(shifts))
    if not keep.all():
        rows = keep.nonzero().squeeze(1)
        vectors, samples = vectors.index_select(0, rows), samples.index_select(0, rows)
        counts = torch.bincount(owner.index_select(0, rows), minlength=batch.n_systems).tolist()
    xyz = Labels("xyz", torch.arange(3, device=i.device).reshape(-1, 1))
    distance = Labels("distance", torch.zeros(1, 1, dtype=torch.int64, device=i.device))
    return [
        TensorBlock(
            values=values.unsqueeze(-1),
            samples=Labels(_PAIR_NAMES, labels, assume_unique=True),
            components=[xyz],
            properties=distance,
        )
        for values, labels in zip(vectors.split(counts), samples.split(counts), strict=True)
    ]


def load(
    source: Source, *, variant: str | None = None
) -> tuple[MetatomicPotential, dict[str, Any]]:
    """Return the potential in an exported file, and facts from the file for `ModelInfo`.

    Args:
        source: Place of the `.pt` file; its dtype is None, or the one of the export.
        variant: See `MetatomicPotential`.

    Raises:
        ModelLoadError: If the file is not an exported model, or the model cannot be served.
    """
    file = source.read()
    missing = import_extensions(file.content)
    try:
        with file.private_copy() as copy:
            model = load_atomistic_model(str(copy))
    except (RuntimeError, ValueError) as error:
        if missing:
            raise ModelLoadError(
                f"{file.path}: the model was exported with compiled extensions that are not "
                f"installed: {', '.join(missing)}"
            ) from error
        raise ModelLoadError(f"{file.path}: not an exported metatomic model: {error}") from error
    potential = MetatomicPotential(model, source.device, variant)
    if source.dtype not in (None, potential.dtype):
        raise ModelLoadError(
            f"{file.path}: dtype: it was exported in {named(potential.dtype)}, "
            f"got {named(source.dtype)}"
        )
    return potential, {
        **described(model.metadata()),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metadata": {"metatomic_outputs": sorted(model.capabilities().outputs)},
    }


def described(metadata: Any) -> dict[str, str]:
    """Return the name and the model card in a `ModelMetadata`."""
    return {"name": metadata.name, "card": f"```\n{str(metadata).strip()}\n```\n"}


def _requested_output(
    name: str, quantity: Quantity, outputs: dict[str, ModelOutput]
) -> _RequestedOutput:
    if quantity is DIRECT_STRESS:
        return _RequestedOutput(name, quantity, "system")
    kind = outputs[name].sample_kind
    if quantity is DIRECT_FORCE and kind != "atom":
        raise ModelLoadError(f"output {name!r}: expected one value per atom, got one per {kind}")
    return _RequestedOutput(name, quantity, kind)


def _values(result: TensorMap, requested: _RequestedOutput, batch: Batch) -> Tensor:
    """Return one row per atom or system, in the order of the batch rather than of the result."""
    block = result.block()
    rows: Tensor = block.values
    system = block.samples.column("system").to(torch.int64)
    if requested.sample_kind == "system":
        return rows.new_zeros(batch.n_systems, *rows.shape[1:]).index_add(0, system, rows)
    atom = _firsts(batch)[system] + block.samples.column("atom")
    return rows.new_zeros(batch.n_atoms, *rows.shape[1:]).index_add(0, atom, rows)


def _firsts(batch: Batch) -> Tensor:
    """Return the index of the first atom of each system."""
    sizes = [0, *batch.n_atoms_per_system[:-1]]
    return torch.tensor(sizes, device=batch.pairs.device).cumsum(0)


def _direct_heads(values: dict[Quantity, Tensor]) -> DirectHeads:
    forces, stress = values.get(DIRECT_FORCE), values.get(DIRECT_STRESS)
    return DirectHeads(
        None if forces is None else forces.reshape(-1, 3),
        None if stress is None else stress.reshape(-1, 3, 3),
    )


def _one_number(name: str, number: Tensor) -> TensorMap:
    zero = torch.zeros(1, 1, dtype=torch.int64, device=number.device)
    block = TensorBlock(
        values=number.reshape(1, 1),
        samples=Labels("system", zero),
        components=[],
        properties=Labels(name, zero),
    )
    data = TensorMap(Labels("_", zero), [block])
    data.set_info("unit", _INPUTS[name])
    return data


def _is_positive(shifts: Tensor) -> Tensor:
    """Return which shifts follow zero in lexicographic order: exactly one of each pair ±s."""
    a, b, c = shifts.unbind(1)
    return (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))


def _check_device(device: torch.device, supported: Sequence[str]) -> None:
    if device.type not in supported:
        raise ModelLoadError(
            f"device: expected {' or '.join(supported)} for this model, got {device}"
        )


def _check_inputs(requested: dict[str, ModelOutput]) -> None:
    for name, option in requested.items():
        if name not in _INPUTS or option.sample_kind != "system":
            raise ModelLoadError(
                f"inputs: expected {' or '.join(_INPUTS)} per system, "
                f"got {name!r} per {option.sample_kind}"
            )
