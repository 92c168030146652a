"""ANI models of molecules, with the networks of the package torchani on our neighbor list.

J. S. Smith et al., Chemical Science 8, 3192 (2017); X. Gao et al., TorchANI, J. Chem. Inf. Model.
60, 3408 (2020). A model is the mean of eight networks. It is made for neutral molecules.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor
from torchani.arch import ANI, Assembler
from torchani.neighbors import Neighbors
from torchani.paths import state_dicts_dir

from twinforce_models.batch import Batch, reversed_pairs
from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source, download
from twinforce_models.potential import Exemption, Heads
from twinforce_proto import ModelLoadError

_HARTREE = 27.211386024367243
"""Hartree, in eV, as in ASE (CODATA 2014), so that energies are those of torchani's calculator."""

_NETWORKS = 8
_ARCHITECTURES = {
    "1x": ("HCNO", "ani1x", "wb97x-631gd"),
    "1ccx": ("HCNO", "ani1x", "ccsd(t)star-cbs"),
    "2x": (("H", "C", "N", "O", "S", "F", "Cl"), "ani2x", "wb97x-631gd"),
}
"""Elements, in the order of the weights; names of the layers and of the energies of free atoms."""

_KINK = "the second derivative of its cosine cutoff jumps, so that forces have a kink there"


class AniPotential:
    """A `Potential` around an ensemble of networks.

    Energies of free atoms, which are hundreds of eV, are added in float64.

    Attributes:
        cutoff: Cutoff radius of pairs, in Å. That of angles is shorter.
        exemptions: Known exceptions to the contract of potentials.
    """

    exemptions = (Exemption("energy and forces continuous at the cutoff", 1e-5, _KINK),)
    outputs = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
    uses_charge = uses_spin = False

    def __init__(self, network: ANI, dtype: torch.dtype, device: torch.device) -> None:
        """Wrap a model.

        Args:
            network: An ensemble whose energies are in Hartree.
            dtype: Data type of the computation.
            device: Device of the computation.
        """
        self._free: Tensor = network.energy_shifter.self_energies.to(device, torch.float64)
        network.set_enabled("energy_shifter", False)
        self._network: Any = network.to(device, dtype).eval().requires_grad_(False)
        self.device, self.dtype = device, dtype
        self.cutoff = float(network.cutoff)
        self.elements = tuple(sorted(int(z) for z in network.atomic_numbers))

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once, as one molecule whose parts are far apart."""
        kinds = self._network.species_converter(batch.atomic_numbers.unsqueeze(0))
        places = batch.positions.detach().to(self.dtype).unsqueeze(0)  # only their shape counts
        found = self._network.compute_from_neighbors(
            kinds, places, self._neighbors(batch), atomic=True
        )
        energies = found.energies.to(torch.float64) + self._free[kinds]
        return Heads(_HARTREE * energies.reshape(-1))

    def _neighbors(self, batch: Batch) -> Neighbors:
        """Return each pair once, with the vector from the second atom to the first."""
        opposite = reversed_pairs(batch.pairs[0], batch.pairs[1], batch.shifts)
        rows = torch.arange(batch.n_pairs, device=self.device)
        once = (rows < opposite).nonzero().squeeze(1)
        vectors = -batch.displacements().index_select(0, once)
        return Neighbors(batch.pairs.index_select(1, once), vectors.norm(dim=1), vectors)


def load(source: Source, *, arch: str | None = None) -> tuple[AniPotential, dict[str, Any]]:
    """Return an ANI model, and facts for `ModelInfo`.

    Args:
        source: A published name, "1x", "1ccx" or "2x", or a file with the weights of one.
        arch: The published name whose architecture the weights in a file have. None reads it off
            the name of the file, if it is still the published one.

    Raises:
        ModelLoadError: If the model cannot be found, or the file has other weights.
    """
    file = source.read(find)
    arch = arch or (source.place if file.is_published else _named_by(file))
    if arch not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ModelLoadError(f"arch: expected one of {known}, got {arch or 'none'}; add #arch=")
    network = _network(file, arch)
    name = f"ani-{arch}" if file.is_published else file.path.stem
    return AniPotential(network, source.dtype or torch.float32, source.device), {
        "name": name,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "metadata": {"arch": arch},
        "card": f"# {name}\n\nAn ANI model, evaluated with torchani. For neutral molecules.\n",
    }


def _network(file: ModelFile, arch: str) -> ANI:
    saved, network = file.unpickle(), assembled(arch)
    try:
        network.load_state_dict(saved)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ModelLoadError(f"{file.path}: not weights of ANI-{arch}: {error}") from error
    return network


def assembled(arch: str) -> ANI:
    """Return a model of a published architecture, with random weights."""
    symbols, layers, free_energies = _ARCHITECTURES[arch]
    assembler = Assembler(periodic_table_index=True)
    assembler.set_symbols(tuple(symbols))
    assembler.set_global_cutoff_fn("cosine")
    assembler.set_aev_computer(radial=layers, angular=layers, strategy="pyaev")
    assembler.set_atomic_networks(ctor=layers)
    assembler.set_neighborlist("all_pairs")
    assembler.set_gsaes_as_self_energies(free_energies)
    return assembler.assemble(_NETWORKS)


def _named_by(file: ModelFile) -> str | None:
    """Return the architecture that a file with a published name has."""
    return next((arch for arch in _ARCHITECTURES if file.path.name == _file_of(arch)), None)


def _file_of(arch: str) -> str:
    return f"ani{arch}_state_dict.pt"


def find(name: str) -> Path:
    """Return the path of the weights of a published model, downloading them if necessary.

    Args:
        name: A published name.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    if name not in _ARCHITECTURES:
        raise ModelLoadError(
            f"model 'ani:{name}': there is no such file, and no published model of this name is "
            f"supported; there are {', '.join(_ARCHITECTURES)}"
        )
    file, folder = _file_of(name), Path(state_dicts_dir())
    if (kept := folder / file).is_file():
        return kept
    repository = f"roitberg-group/ani{name}"
    url = f"https://huggingface.co/{repository}/resolve/main/{file}"
    fetch = partial(hf_hub_download, repository, file, local_dir=str(folder))
    return download(f"ani:{name}", url, folder, fetch)
