"""SevenNet models, with the network of the package sevenn on our neighbor list.

Y. Park et al., Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in
Molecular Dynamics Simulations, J. Chem. Theory Comput. 20, 4857 (2024).
"""

import warnings
from pathlib import Path
from typing import Any

import sevenn._const as constants
import sevenn._keys as keys
import torch
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.util import get_available_pretrained_models, pretrained_name_to_path
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.model_file import NUMPY, ModelFile
from twinforce_models.loading.source import Source, download
from twinforce_models.potential import Exemption, Heads
from twinforce_proto import ModelLoadError

_CUTOFF = (
    "its cutoff function does not vanish exactly at the cutoff, but within rounding of float32"
)


class SevennetPotential:
    """A `Potential` around a SevenNet.

    Attributes:
        cutoff: Cutoff radius, in Å.
        elements: Elements that the network was trained on.
        exemptions: Known exceptions to the contract of potentials.
    """

    outputs = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
    uses_charge = uses_spin = False
    exemptions = (Exemption("energy and forces continuous at the cutoff", 1e-4, _CUTOFF),)

    def __init__(
        self, network: Any, modal: str | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Wrap a network.

        Args:
            network: An `AtomGraphSequential`; the parts of it that differentiate are removed.
            modal: Name of one of its kinds of data, if it was trained on several.
            dtype: Data type of the computation.
            device: Device of the computation.
        """
        _prepare(network, dtype)
        self._network = network.to(device, dtype).eval().requires_grad_(False)
        self._modal = None if modal is None else int(network.modal_map[modal])
        self.device, self.dtype = device, dtype
        self.cutoff = float(network.cutoff)
        self.elements = tuple(sorted(int(z) for z in network.type_map))

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once; there are no direct heads."""
        data = {
            keys.ATOMIC_NUMBERS: batch.atomic_numbers,
            keys.NODE_FEATURE: batch.atomic_numbers,
            keys.EDGE_IDX: batch.pairs,
            keys.EDGE_VEC: batch.displacements(),
            keys.BATCH: batch.system_index,
            keys.NUM_ATOMS: torch.tensor(batch.n_atoms_per_system, device=self.device),
        }
        if self._modal is not None:
            data[keys.MODAL_TYPE] = torch.full((batch.n_systems,), self._modal, device=self.device)
        return Heads(self._network(data)[keys.ATOMIC_ENERGY].reshape(-1))


class OneHotElements(torch.nn.Module):
    """A replacement of a one-hot embedding of sevenn, which returns float32 in any network."""

    def __init__(self, replaced: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self._replaced, self._dtype = replaced, dtype

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the data with the embedding in the data type of the network."""
        data = self._replaced(data)
        names = {self._replaced.key_output, self._replaced.key_additional_output} - {None}
        return data | {name: data[name].to(self._dtype) for name in names}


def _prepare(network: Any, dtype: torch.dtype) -> None:
    """Leave the derivatives to autograd, and make the network accept batches in any data type."""
    for name, module in list(network.named_children()):
        if name.startswith("force_output"):
            network.delete_module_by_key(name)
        elif hasattr(module, "key_additional_output"):
            network.replace_module(name, OneHotElements(module, dtype))
    network.key_grad = None
    network.eval_type_map, network.eval_modal_map = True, False
    network.set_is_batch_data(True)


def load(source: Source, *, variant: str | None = None) -> tuple[SevennetPotential, dict[str, Any]]:
    """Return a SevenNet, and facts for `ModelInfo`.

    Args:
        source: A checkpoint, or a published name, such as "7net-0".
        variant: Name of one of several kinds of data that the network was trained on ("modal").

    Raises:
        ModelLoadError: If the model cannot be found, or the file is not a SevenNet.
    """
    file = source.read(find)
    network = _network(file)
    modals = list(network.modal_map or {})
    if variant not in (modals or [None]):
        expected = f"one of {', '.join(modals)}" if modals else "none, as the model has no variants"
        raise ModelLoadError(f"variant: expected {expected}, got {variant or 'none'}")
    name = source.place if file.is_published else file.path.stem
    dtype = source.dtype or torch.float32
    return SevennetPotential(network, variant, dtype, source.device), {
        "name": name,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "metadata": {"modals": modals},
        "card": f"# {name}\n\nA SevenNet, evaluated with the package sevenn.\n",
    }


def _network(file: ModelFile) -> Any:
    """Return the network in a file, which sevenn unpickles only after it was found to be safe."""
    saved = file.unpickle(NUMPY)
    if not isinstance(saved, dict) or not {"config", "model_state_dict"} <= saved.keys():
        raise ModelLoadError(f"{file.path}: expected a checkpoint of SevenNet")
    with warnings.catch_warnings(), file.private_copy() as copy:
        warnings.simplefilter("ignore")  # about accelerators that are not installed
        return SevenNetCheckpoint(copy).build_model()


def find(name: str) -> Path:
    """Return the path of the file of a published model, downloading it if necessary.

    Some come with the package; the others go to its cache.

    Args:
        name: A published name.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    known = get_available_pretrained_models()
    if name not in known:
        raise ModelLoadError(
            f"model 'sevenn:{name}': there is no such file, and sevenn publishes no such model; "
            f"it publishes {', '.join(known)}"
        )
    files = {key.lower(): path for key, path in vars(constants).items() if key.startswith("SEVEN")}
    path = files.get(f"sevennet_{name.removeprefix('7net-')}".replace("-", "_"), "")
    url = constants.CHECKPOINT_DOWNLOAD_LINKS.get(path, path)
    cache = Path.home() / ".cache" / "sevennet"
    return download(f"sevenn:{name}", url, cache, lambda: pretrained_name_to_path(name))
