"""MatterSim models, with the layers of the package mattersim on our neighbor list.

H. Yang et al., MatterSim: A Deep Learning Atomistic Model Across Elements, Temperatures and
Pressures, arXiv 2405.04967. The network is an M3GNet: messages along pairs that know the angles to
other pairs of their center (C. Chen and S. P. Ong, Nature Computational Science 2, 718, 2022).
"""

from pathlib import Path
from typing import Any

import torch
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
from mattersim.utils.download_utils import download_checkpoint
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source, download
from twinforce_models.potential import Heads
from twinforce_models.potentials.angles import angles_within
from twinforce_proto import ModelLoadError

_ELEMENTS = (*range(1, 84), *range(89, 95))
"""Elements of the training data: the embeddings of the others have kept their initial values."""

_PUBLISHED = {size: f"mattersim-v1.0.0-{size}.pth" for size in ("1M", "5M")}
_ADDRESS = "https://github.com/microsoft/mattersim/raw/main/pretrained_models"
_CACHE = Path("~/.local/mattersim/pretrained_models")
"""Folder that mattersim itself keeps published models in."""

_CONSTANTS = {"sbf.coef"}
"""Constants that files of former versions lack."""

_MAX_COSINE = 1.0 - 1e-7
"""Bound of cosines in mattersim: the derivative of the angle diverges beyond."""


class MattersimPotential:
    """A `Potential` around an M3GNet of mattersim.

    Energies of the elements are added in float64.

    Attributes:
        cutoff: Cutoff radius of pairs, in Å. That of angles is shorter.
    """

    outputs = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
    uses_charge = uses_spin = False

    def __init__(self, network: M3Gnet, dtype: torch.dtype, device: torch.device) -> None:
        """Wrap a network.

        Args:
            network: An M3GNet.
            dtype: Data type of the computation.
            device: Device of the computation.
        """
        self._network: Any = network.to(device, dtype).eval().requires_grad_(False)
        self._angle_cutoff = float(network.model_args["threebody_cutoff"])
        self.device, self.dtype = device, dtype
        self.cutoff = float(network.model_args["cutoff"])
        self.elements = tuple(z for z in _ELEMENTS if z <= network.max_z)

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once; there are no direct heads.

        The network's own forward pass subtracts positions in float32, so its layers are called
        here.
        """
        network, vectors = self._network, batch.displacements()
        lengths = vectors.norm(dim=1)
        first, second = angles_within(batch, lengths, self._angle_cutoff)
        angular = network.sbf(
            lengths.index_select(0, second), _angles(vectors, lengths, first, second)
        )
        radial = network.rbf(lengths)
        one_hot = torch.nn.functional.one_hot(batch.atomic_numbers, network.max_z + 1)
        atoms = network.atom_embedding(one_hot.to(self.dtype))
        edges = network.edge_encoder(radial)
        for block in network.graph_conv:
            atoms, edges = block(
                *(atoms, edges, radial, batch.pairs, angular),
                torch.stack([first, second], dim=1),
                lengths.unsqueeze(1),
                num_edges=None,  # the two numbers follow from `three_body_edge_map`
                num_triple_ij=first,
                num_atoms=None,
                total_num_atoms=batch.n_atoms,
                total_num_bonds=batch.n_pairs,
                three_body_edge_map=first,
            )
        energies = network.final(atoms).reshape(-1).to(torch.float64)
        return Heads(network.normalizer(energies, batch.atomic_numbers))


def _angles(vectors: Tensor, lengths: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the angles between two pairs each, in radians."""
    directions = vectors / lengths.unsqueeze(1)
    cosines = directions.index_select(0, first) * directions.index_select(0, second)
    return torch.acos(cosines.sum(dim=1).clamp(-_MAX_COSINE, _MAX_COSINE))


def load(source: Source) -> tuple[MattersimPotential, dict[str, Any]]:
    """Return a MatterSim model, and facts for `ModelInfo`.

    Args:
        source: A checkpoint, or a published size, "1M" or "5M".

    Raises:
        ModelLoadError: If the model cannot be found, or the file is not a MatterSim model.
    """
    file = source.read(find)
    network = _network(file)
    name = file.path.stem
    dtype = source.dtype or torch.float32
    return MattersimPotential(network, dtype, source.device), {
        "name": name,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "card": f"# {name}\n\nA MatterSim model, evaluated with the package mattersim.\n",
    }


def _network(file: ModelFile) -> M3Gnet:
    saved = file.unpickle()
    if not isinstance(saved, dict) or not {"model_name", "model_args", "model"} <= saved.keys():
        raise ModelLoadError(f"{file.path}: expected a checkpoint of MatterSim")
    if saved["model_name"] != "m3gnet":
        raise ModelLoadError(
            f"{file.path}: expected a network of the kind m3gnet, got {saved['model_name']!r}"
        )
    network = M3Gnet(device="cpu", **saved["model_args"])
    constants = {key: network.state_dict()[key] for key in _CONSTANTS - saved["model"].keys()}
    try:
        network.load_state_dict(saved["model"] | constants)
    except RuntimeError as error:
        raise ModelLoadError(f"{file.path}: not weights of the network in it: {error}") from error
    return network


def find(name: str) -> Path:
    """Return the path of the file of a published model, downloading it if necessary.

    Args:
        name: A published size, "1M" or "5M".

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    if name not in _PUBLISHED:
        raise ModelLoadError(
            f"model 'mattersim:{name}': there is no such file, and no published model has this "
            f"size; there are {', '.join(_PUBLISHED)}"
        )
    cache = _CACHE.expanduser()
    path = cache / _PUBLISHED[name]

    def fetch() -> Path:
        if not path.is_file():
            download_checkpoint(path.name, str(cache))
        return path

    return download(f"mattersim:{name}", f"{_ADDRESS}/{path.name}", cache, fetch)
