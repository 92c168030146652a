"""The potential of an eSCN-MD network: its layers on our neighbor list, many systems in one pass.

X. Fu et al., Learning Smooth and Expressive Interatomic Potentials for Physical Property Prediction
(eSEN), arXiv 2502.12147; B. M. Wood et al., UMA: A Family of Universal Models for Atoms, arXiv
2506.23971. A network of UMA mixes the weights of its experts for each system, by its composition,
charge, spin and task.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from fairchem.core.datasets.atomic_data import AtomicData
from fairchem.core.graph.radius_graph_pbc import get_max_neighbors_mask
from fairchem.core.models.uma.escn_md import add_n_empty_edges
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import DirectHeads, Exemption, Heads
from twinforce_models.potentials.fairchem.checkpoint import Target
from twinforce_models.potentials.fairchem.heads import Head
from twinforce_models.potentials.quantities import whole_number_per_system
from twinforce_proto import InvalidSystemError

_N_EMBEDDED = {"charge": (-100, 100), "spin_multiplicity": (1, 100)}
"""Smallest and largest number that networks have an embedding of."""

_WITH_CHARGE = "omol"
"""The task that has charges and spins; for others, fairchem takes both as zero."""

_NEAREST = (
    "only the {} nearest neighbors count, so the energy jumps where others become the nearest"
)

LoneAtoms = Mapping[int, Mapping[int, float]]
"""Energies of atoms without neighbors, in eV, by atomic number and charge."""


class FairchemPotential:
    """A `Potential` around an eSCN-MD network, for one of its tasks.

    Positions are subtracted in float64, and references of the elements are added in float64.

    Attributes:
        cutoff: Cutoff radius, in Å.
        max_neighbors: Number of nearest neighbors of an atom that count.
        outputs_if_periodic: The direct stress, as the head has seen crystals only.
        exemptions: Known exceptions to the contract of potentials.
    """

    outputs_if_periodic = frozenset({"direct_stress"})

    def __init__(
        self,
        network: Any,
        task: str,
        targets: Mapping[str, Target],
        heads: Mapping[str, Head],
        outputs: frozenset[str],
        lone_atoms: LoneAtoms,
        device: torch.device,
    ) -> None:
        """Wrap a network.

        Args:
            network: A `HydraModel` with a backbone of the kind eSCN-MD, in its final dtype.
            task: Name of the set of data whose heads, embedding and references are used.
            targets: The targets of the task, by their quantity.
            heads: The heads that predict them, by the same quantities; on the device.
            outputs: Outputs to offer, out of those that the network can compute.
            lone_atoms: Energies of atoms without neighbors, which are not left to the network. It
                may be empty; atoms alone are then refused, unless the network was trained on them.
            device: Device of the computation.
        """
        self._backbone: Any = network.backbone
        self._task, self._targets, self._heads = task, targets, heads
        self._backbone._generate_graph = self._graph
        self._backbone.regress_config.forces = self._backbone.regress_config.stress = False
        for target in targets.values():
            target.normalizer.to(device)
        self._references = targets["energy"].references
        if self._references is not None:
            self._references = self._references.to(device)
        self.device = device
        self.dtype: torch.dtype = next(network.parameters()).dtype
        self.cutoff = float(self._backbone.cutoff)
        self.max_neighbors = int(self._backbone.max_neighbors)
        self.elements = _elements(self._references, self._backbone.max_num_elements)
        self.outputs = outputs
        mapping = self._backbone.dataset_mapping or {}
        self.uses_charge = self.uses_spin = mapping.get(task, task) == _WITH_CHARGE
        self._lone_atoms = lone_atoms
        self._knows_lone_atoms = bool(network.supports_single_atoms)
        reason = _NEAREST.format(self.max_neighbors)
        self.exemptions = tuple(
            Exemption(check, 0.1, reason)
            for check in ("conservative forces = -dE/dr", "conservative stress = dE/dstrain / V")
        )

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        lone = self._lone(batch)
        features = self._backbone(self._data(batch))
        energies = self._energies(features, batch, lone)
        own = self._direct(features, batch, lone) if direct else DirectHeads()
        return Heads(energies, own.direct_forces, own.direct_stress)

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate a batch without the energy."""
        return self._direct(self._backbone(self._data(batch)), batch, self._lone(batch))

    def _data(self, batch: Batch) -> AtomicData:
        """Return a batch as the network takes it, with the nearest neighbors of each atom."""
        vectors = batch.displacements()
        sizes = self._sizes(batch)
        kept = self._nearest(batch, vectors.detach(), sizes)
        pairs, shifts = batch.pairs, batch.shifts
        if kept is not None:
            pairs, shifts = pairs.index_select(1, kept), shifts.index_select(0, kept)
            vectors = vectors.index_select(0, kept)
        owners = batch.system_index.index_select(0, pairs[0])
        zeros = torch.zeros_like(batch.atomic_numbers)
        data = AtomicData(
            pos=batch.positions.detach().to(self.dtype),  # only its shape counts
            atomic_numbers=batch.atomic_numbers,
            cell=batch.cells.detach().to(self.dtype),
            pbc=batch.pbc,
            natoms=sizes,
            edge_index=pairs.flip(0),
            cell_offsets=shifts.to(self.dtype),
            nedges=torch.bincount(owners, minlength=batch.n_systems),
            charge=self._whole(batch, "charge"),
            spin=self._whole(batch, "spin_multiplicity"),
            fixed=zeros,
            tags=zeros,
            batch=batch.system_index,
            sid=[""] * batch.n_systems,
            dataset=[self._task] * batch.n_systems,
        )
        data["edge_vectors"] = vectors
        return data

    def _graph(self, data: AtomicData) -> dict[str, Tensor]:
        """Return the pairs of a batch, in place of the network's own search for neighbors."""
        vectors: Tensor = data["edge_vectors"]
        graph = {
            "edge_index": data["edge_index"],
            "edge_distance_vec": vectors,
            "edge_distance": vectors.norm(dim=1),
        }
        if not len(vectors):
            add_n_empty_edges(graph, 1, self.cutoff)
        data["scatter_target"] = graph["edge_index"][1]
        return graph

    def _nearest(self, batch: Batch, vectors: Tensor, sizes: Tensor) -> Tensor | None:
        """Return the rows of the pairs that count; None if all do, as is usual."""
        counts = torch.bincount(batch.pairs[0], minlength=1)
        if int(counts.max()) <= self.max_neighbors:
            return None
        squared = vectors.square().sum(dim=1)
        mask, _ = get_max_neighbors_mask(sizes, batch.pairs[0], squared, self.max_neighbors)
        rows: Tensor = mask.nonzero().squeeze(1)
        return rows

    def _whole(self, batch: Batch, name: str) -> Tensor:
        """Return charges or spin multiplicities; zero if they do not belong to the task."""
        if not self.uses_charge:
            return torch.zeros(batch.n_systems, dtype=torch.int64, device=self.device)
        values = whole_number_per_system(batch, name)
        low, high = _N_EMBEDDED[name]
        outside = (values < low) | (values > high)
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            expected, got = f"a number from {low} to {high}", int(values[index])
            raise InvalidSystemError.expected(name, expected, got).at(index)
        return values

    def _lone(self, batch: Batch) -> Tensor | None:
        """Return the energies of molecules of one atom, and NaN for other atoms, in eV.

        It is None if the network is to evaluate all atoms.
        """
        if self._knows_lone_atoms or 1 not in batch.n_atoms_per_system:
            return None
        is_periodic = batch.pbc.any(dim=1).tolist()
        charges = batch.charge.round().to(torch.int64).tolist()
        energies: list[float] = []
        for index, n_atoms in enumerate(batch.n_atoms_per_system):
            is_lone = n_atoms == 1 and not is_periodic[index]
            number = int(batch.atomic_numbers[len(energies)]) if is_lone else 0
            energy = self._lone_energy(number, charges[index], index) if is_lone else math.nan
            energies += [energy] * n_atoms
        return torch.tensor(energies, dtype=torch.float64, device=self.device)

    def _lone_energy(self, number: int, charge: int, index: int) -> float:
        known = self._lone_atoms.get(number, {})
        if charge not in known:
            expected = "more than one atom, or another element or charge, as energies of atoms "
            expected += "alone are not computed but listed, and the list lacks this one"
            got = f"element {number} with charge {charge}"
            raise InvalidSystemError.expected("atomic_numbers", expected, got).at(index)
        return known[charge]

    def _energies(self, features: dict[str, Tensor], batch: Batch, lone: Tensor | None) -> Tensor:
        """Return the energies of atoms, each of which the head takes for a system."""
        n_atoms = batch.to_atoms(self._sizes(batch))
        each = {"batch": torch.arange(batch.n_atoms, device=self.device), "natoms": n_atoms}
        normalizer = self._targets["energy"].normalizer
        own = self._heads["energy"](each, features).to(torch.float64)
        energies: Tensor = own * normalizer.rmsd + normalizer.mean / n_atoms
        if self._references is not None:
            energies = energies + self._references.index_select(0, batch.atomic_numbers)
        return energies if lone is None else torch.where(lone.isnan(), energies, lone)

    def _direct(
        self, features: dict[str, Tensor], batch: Batch, lone: Tensor | None
    ) -> DirectHeads:
        data = {"batch": batch.system_index, "natoms": self._sizes(batch)}
        forces, stress = (
            self._targets[quantity].normalizer.denorm(self._heads[quantity](data, features))
            if f"direct_{quantity}" in self.outputs
            else None
            for quantity in ("forces", "stress")
        )
        if forces is not None and lone is not None:
            forces = torch.where(lone.isnan().unsqueeze(1), forces, 0.0)
        return DirectHeads(forces, None if stress is None else stress.reshape(-1, 3, 3))

    def _sizes(self, batch: Batch) -> Tensor:
        """Return the number of atoms of each system."""
        return torch.tensor(batch.n_atoms_per_system, device=self.device)


def _elements(references: Tensor | None, n_embedded: int) -> tuple[int, ...]:
    """Return the elements of the training data: those that have a reference, if there are any."""
    known = range(1, n_embedded)
    if references is None or not bool(references.any()):
        return tuple(known)
    return tuple(z for z in known if z < len(references) and references[z] != 0)
