"""The potential of an ORB model: its network on our neighbor list, many systems in one pass.

M. Neumann et al., Orb: A Fast, Scalable Neural Network Potential, arXiv 2410.22570, and B. Rhodes
et al., Orb-v3: atomistic simulation at scale, arXiv 2504.06231.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from orb_models.forcefield.base import AtomGraphs
from orb_models.forcefield.nn_util import ChargeSpinConditioner
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import DirectHeads, Exemption, Heads

_N_COLUMNS = 118
"""Columns of the encoding of elements; column Z is the element of atomic number Z."""

_FULL_MATRIX = [0, 5, 4, 5, 1, 3, 4, 3, 2]
"""Entry of (xx, yy, zz, yz, xz, xy) in each place of a 3x3 matrix."""

_NEAREST = (
    "only the {} nearest neighbors count, so the energy jumps where others become the nearest"
)
_TORQUE = "the torque that is removed from the direct forces of a molecule depends on all its atoms"
_BY_NEAREST = (
    "unchanged by translation",
    "unchanged by permutation",
    "unchanged by lattice vectors (unwrapped atoms)",
    "conservative stress = dE/dstrain / V",
)


class OrbPotential:
    """A `Potential` around an ORB network.

    The network has an energy per system, of the mean of its features over the atoms, and no
    energies of atoms. The energies per element are added in float64.

    Attributes:
        cutoff: Cutoff radius, in Å.
        max_neighbors: Number of nearest neighbors of an atom that its features are made of.
        exemptions: Known exceptions to the contract of potentials.
        outputs_if_periodic: The direct stress, as the head has seen crystals only.
    """

    outputs_if_periodic = frozenset({"direct_stress"})

    def __init__(
        self,
        model: Any,
        elements: tuple[int, ...],
        outputs: frozenset[str],
        device: torch.device,
    ) -> None:
        """Wrap a network.

        Args:
            model: A regressor of orb-models, in the dtype of the potential.
            elements: Elements of the data that the network was trained on.
            outputs: Outputs to offer, out of those that the network can compute.
            device: Device of the computation.
        """
        self._model = model.to(device).eval().requires_grad_(False)
        self.device = device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.cutoff = float(model.system_config.radius)
        self.max_neighbors = int(model.system_config.max_num_neighbors)
        self.elements = elements
        self.outputs = outputs
        self.uses_charge = self.uses_spin = isinstance(
            model.model.conditioner, ChargeSpinConditioner
        )
        reason = _NEAREST.format(self.max_neighbors)
        self.exemptions = (
            *(Exemption(check, 0.1, reason) for check in _BY_NEAREST),
            Exemption("energy and forces continuous at the cutoff", 1e-6, _TORQUE),
        )

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        with _default_dtype(self.dtype):
            graphs = self._graphs(batch)
            features = self._model.model(graphs)["node_features"]
            repulsion = self._repulsion(graphs)
            energy = self._energy(features, graphs, batch)
            if repulsion:
                energy = energy + repulsion["energy"]
            own = self._direct(features, graphs, repulsion) if direct else DirectHeads()
        return Heads(None, own.direct_forces, own.direct_stress, energy)

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate a batch without the energy."""
        with _default_dtype(self.dtype):
            graphs = self._graphs(batch)
            features = self._model.model(graphs)["node_features"]
            return self._direct(features, graphs, self._repulsion(graphs))

    def _graphs(self, batch: Batch) -> AtomGraphs:
        """Return a batch as the network takes it, with the nearest neighbors of each atom."""
        vectors = batch.displacements()
        rows = nearest(batch, vectors.detach(), self.max_neighbors)
        pairs = batch.pairs.index_select(1, rows)
        n_atoms = torch.tensor(batch.n_atoms_per_system, device=self.device)
        owners = batch.system_index.index_select(0, pairs[0])
        one_hot = torch.nn.functional.one_hot(batch.atomic_numbers, _N_COLUMNS).to(self.dtype)
        return AtomGraphs(
            senders=pairs[0],
            receivers=pairs[1],
            n_node=n_atoms,
            n_edge=torch.bincount(owners, minlength=batch.n_systems),
            node_features={
                "positions": batch.positions.to(self.dtype),
                "atomic_numbers": batch.atomic_numbers,
                "atomic_numbers_embedding": one_hot,
            },
            edge_features={"vectors": vectors.index_select(0, rows)},
            system_features={
                "cell": _cells(batch).to(self.dtype),
                "pbc": batch.pbc,
                "total_charge": batch.charge.to(self.dtype),
                "total_spin": batch.spin_multiplicity.to(self.dtype),
            },
            node_targets=None,
            edge_targets=None,
            system_targets=None,
            system_id=None,
            fix_atoms=None,
            tags=None,
            radius=self.cutoff,
            max_num_neighbors=torch.tensor([self.max_neighbors]),
        )

    def _energy(self, features: Tensor, graphs: AtomGraphs, batch: Batch) -> Tensor:
        head = self._model.heads["energy"]
        value: Tensor = head.normalizer.inverse(head(features, graphs).reshape(-1).double())
        if head.atom_avg:
            value = value * graphs.n_node
        references = head.reference.linear.weight.reshape(-1).double()
        own: Tensor = references.index_select(0, batch.atomic_numbers)
        return value + batch.sum_over_atoms(own)

    def _repulsion(self, graphs: AtomGraphs) -> dict[str, Tensor]:
        """Return the repulsion of nuclei that v3 models add to what their heads predict."""
        has_repulsion = getattr(self._model, "pair_repulsion", False)
        return self._model.pair_repulsion_fn(graphs) if has_repulsion else {}

    def _direct(
        self, features: Tensor, graphs: AtomGraphs, repulsion: dict[str, Tensor]
    ) -> DirectHeads:
        forces, stress = (
            self._model.heads[name].predict(features, graphs) + repulsion.get(name, 0.0)
            if name in self._model.heads
            else None
            for name in ("forces", "stress")
        )
        if stress is not None:
            stress = stress[:, _FULL_MATRIX].view(-1, 3, 3)
        return DirectHeads(forces, stress)


def nearest(batch: Batch, vectors: Tensor, most: int) -> Tensor:
    """Return the rows of the pairs that are kept: of each center, the nearest ones.

    The periodic images of an atom are equally far from it in opposite directions. One of them may
    have to go, and it must be the same one in every step, or the energy would not be smooth.

    Args:
        batch: The batch with its pairs.
        vectors: From center to neighbor, shape [n_pairs, 3], in Å.
        most: Number of pairs to keep per center.

    Returns:
        Sorted by center, then by distance.
    """
    centers, device = batch.pairs[0], vectors.device
    order = _in_fixed_order(batch)
    for key in (vectors.square().sum(dim=1), centers):
        order = order[key[order].argsort(stable=True)]
    counts = torch.bincount(centers, minlength=batch.n_atoms)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(centers), device=device) - first[centers[order]]
    return order[rank < most]


def _in_fixed_order(batch: Batch) -> Tensor:
    """Return the rows of the pairs, sorted by what does not change in a step: the shifts."""
    shifts = batch.shifts.round().to(torch.int64)
    if not len(shifts):
        return shifts.new_zeros(0)
    size = 2 * int(shifts.abs().max()) + 1
    x, y, z = shifts.unbind(1)
    return ((x * size + y) * size + z).argsort(stable=True)


def _cells(batch: Batch) -> Tensor:
    """Return right-handed cells, and zero for molecules, from whose forces a torque is removed."""
    cells = batch.cells.detach()
    signs = torch.where(torch.linalg.det(cells) < 0, -1.0, 1.0).to(cells.dtype)
    return cells * (signs * batch.pbc.any(dim=1)).view(-1, 1, 1)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the default dtype, in which some constants of the network are made on every call."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
