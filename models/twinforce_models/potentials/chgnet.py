"""CHGNet models, with the network of the package chgnet on our neighbor list.

B. Deng et al., Nature Machine Intelligence 5, 1031 (2023), arXiv 2302.14231. Energies carry the
corrections of the Materials Project. Magnetic moments are not served.
"""

from pathlib import Path
from typing import Any

import chgnet
import torch
from chgnet.model.model import BatchedGraph, CHGNet

from twinforce_models.batch import Batch, reversed_pairs
from twinforce_models.loading.source import Source
from twinforce_models.potential import Heads
from twinforce_models.potentials.angles import angles_within
from twinforce_proto import ModelLoadError

_ELEMENTS = (*range(1, 84), *range(89, 95))
"""Elements of MPtrj, which all published models are trained on."""


class ChgnetPotential:
    """A `Potential` around a CHGNet.

    Energies of the elements are added in float64.

    Attributes:
        cutoff: Cutoff radius of bonds, in Å. That of angles is shorter.
    """

    elements = _ELEMENTS
    outputs = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
    uses_charge = uses_spin = False

    def __init__(self, network: CHGNet, dtype: torch.dtype, device: torch.device) -> None:
        """Wrap a network.

        Args:
            network: A CHGNet whose energy is a sum over atoms.
            dtype: Data type of the computation.
            device: Device of the computation.
        """
        if not network.mlp_first:
            raise ModelLoadError("expected a CHGNet whose energy is a sum over atoms (mlp_first)")
        self._network: Any = network.to(device, dtype).eval().requires_grad_(False)
        self._angle_cutoff = float(network.graph_converter.bond_graph_cutoff)
        self.device, self.dtype = device, dtype
        self.cutoff = float(network.graph_converter.atom_graph_cutoff)

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once; there are no direct heads."""
        found = self._network._compute(self._graph(batch), return_site_energies=True)
        energies = torch.cat(found["site_energies"]).to(torch.float64)
        if (references := self._network.composition_model) is not None:
            per_element = references.fc.weight[0].to(torch.float64)
            energies = energies + per_element.index_select(0, batch.atomic_numbers - 1)
        return Heads(energies)

    def _graph(self, batch: Batch) -> BatchedGraph:
        """Return a batch as the network takes it.

        A bond is a pair of atoms without direction: the one of two opposite pairs that comes first
        stands for both.
        """
        vectors = batch.displacements()
        opposite = reversed_pairs(batch.pairs[0], batch.pairs[1], batch.shifts)
        rows = torch.arange(batch.n_pairs, device=self.device)
        bonds = (rows < opposite).nonzero().squeeze(1)
        bond_of = torch.empty_like(rows)
        bond_of[bonds] = bond_of[opposite[bonds]] = torch.arange(len(bonds), device=self.device)
        lengths = vectors.index_select(0, bonds).norm(dim=1)
        first, second = angles_within(batch, vectors.norm(dim=1), self._angle_cutoff)
        directions = torch.nn.functional.normalize(vectors, dim=1)
        expand = self._network.bond_basis_expansion
        return BatchedGraph(
            atomic_numbers=batch.atomic_numbers,
            bond_bases_ag=expand.rbf_expansion_ag(lengths),
            bond_bases_bg=expand.rbf_expansion_bg(lengths),
            angle_bases=self._network.angle_basis_expansion(
                directions.index_select(0, first), directions.index_select(0, second)
            ),
            batched_atom_graph=batch.pairs.T.contiguous(),
            batched_bond_graph=torch.stack(
                [batch.pairs[0][first], bond_of[first], bond_of[second]], dim=1
            ),
            atom_owners=batch.system_index,
            directed2undirected=bond_of,
            atom_positions=[],
            strains=[],
            volumes=[],
        )


def load(source: Source) -> tuple[ChgnetPotential, dict[str, Any]]:
    """Return a CHGNet, and facts for `ModelInfo`.

    Args:
        source: A file, or a version that comes with the package, such as "0.3.0" or "r2scan".

    Raises:
        ModelLoadError: If there is no such model, or the file is not a CHGNet.
    """
    file = source.read(find)
    saved = file.unpickle()
    if not isinstance(saved, dict) or "model_args" not in saved.get("model", {}):
        raise ModelLoadError(f"{file.path}: expected a checkpoint of CHGNet")
    has_bias = file.is_published and source.place == "0.2.0"
    network = CHGNet.from_dict(saved["model"], mlp_out_bias=has_bias, version=None)
    name = f"chgnet-{source.place}" if file.is_published else file.path.name.partition(".pth")[0]
    return ChgnetPotential(network, source.dtype or torch.float32, source.device), {
        "name": name,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "card": f"# {name}\n\nA CHGNet, evaluated with the package chgnet.\n",
    }


def find(name: str) -> Path:
    """Return the path of a model that comes with the package.

    Raises:
        ModelLoadError: If there is no such model.
    """
    folder = Path(chgnet.__file__).parent / "pretrained"
    files = {path.parent.name: path for path in sorted(folder.glob("*/*.pth.tar"))}
    if name not in files:
        raise ModelLoadError(
            f"model 'chgnet:{name}': there is no such file, and chgnet comes with no such version; "
            f"it comes with {', '.join(files)}"
        )
    return files[name]
