"""NequIP and Allegro models, packaged or compiled by the package nequip, on our neighbor list.

S. Batzner et al., E(3)-equivariant graph neural networks for data-efficient and accurate
interatomic potentials, Nature Communications 13, 2453 (2022); A. Musaelian et al., Learning local
equivariant representations for large-scale atomistic dynamics, Nature Communications 14, 579
(2023). A model takes its derivatives by itself, so it has no second derivatives here.
"""

import io
from collections.abc import Mapping
from typing import Any

import torch
from ase import units
from ase.data import atomic_numbers
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source
from twinforce_models.potential import Heads
from twinforce_models.potentials.known_gradients import with_known_gradients
from twinforce_models.potentials.quantities import named
from twinforce_proto import ModelLoadError

_UNITS = {
    **{"eV": 1.0, "meV": 1e-3},
    **{"kcal/mol": units.kcal / units.mol, "hartree": units.Hartree},
}
"""Units of energy that models are trained in, in eV, as in ASE."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_FACTS = ("r_max", "type_names", "model_dtype")


class NequipPotential:
    """A `Potential` around a model of nequip.

    Attributes:
        cutoff: Cutoff radius, in Å.
        elements: Elements that the types of atoms are named after.
    """

    outputs = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
    uses_charge = uses_spin = False

    def __init__(
        self, network: Any, facts: Mapping[str, str], unit: float, device: torch.device
    ) -> None:
        """Wrap a model.

        Args:
            network: A function of nequip's dictionary of arrays that returns "atomic_energy",
                "forces" and "virial".
            facts: Metadata of the model: "r_max", "type_names" and "model_dtype".
            unit: Unit of its energies, in eV.
            device: Device of the computation.

        Raises:
            ModelLoadError: If its types of atoms are not elements.
        """
        names = facts["type_names"].split()
        if unknown := [name for name in names if name not in atomic_numbers]:
            raise ModelLoadError(
                f"types of atoms: expected symbols of elements, got {', '.join(unknown)}"
            )
        numbers = [atomic_numbers[name] for name in names]
        self._types = torch.full((max(numbers) + 1,), -1, device=device)
        self._types[numbers] = torch.arange(len(numbers), device=device)
        self._network = _frozen(network.to(device).eval())
        self._unit = unit
        self.device, self.dtype = device, _DTYPES[facts["model_dtype"]]
        self.cutoff = float(facts["r_max"])
        self.elements = tuple(sorted(numbers))

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once, including its derivatives; there are no direct heads."""
        data = self._data(batch)
        with torch.enable_grad():
            found = self._network(data if batch.n_pairs else self._with_a_dimer(data))
        n_atoms, n_systems = batch.n_atoms, batch.n_systems
        energies = with_known_gradients(
            batch,
            self._unit * found["atomic_energy"].detach().reshape(-1)[:n_atoms],
            self._unit * found["forces"].detach()[:n_atoms],
            -self._unit * found["virial"].detach()[:n_systems],
        )
        return Heads(energies)

    def _data(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch as nequip takes it: coordinates in float64, whatever it computes in."""
        sizes = torch.tensor((0, *batch.n_atoms_per_system), device=self.device)
        return {
            "pos": batch.positions.detach(),
            "cell": batch.cells.detach(),
            "edge_index": batch.pairs,
            "edge_cell_shift": batch.shifts,
            "atom_types": self._types.index_select(0, batch.atomic_numbers),
            "batch": batch.system_index,
            "num_atoms": sizes[1:],
            "ptr": sizes.cumsum(0),
        }

    def _with_a_dimer(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch with two more atoms near each other: some networks need a pair."""
        n_atoms, n_systems = len(data["pos"]), len(data["cell"])
        apart = torch.tensor([[0.0, 0.0, 0.0], [0.5 * self.cutoff, 0.0, 0.0]])
        more = {
            "pos": apart,
            "cell": torch.zeros(1, 3, 3),
            "edge_index": n_atoms + torch.tensor([[0, 1], [1, 0]]),
            "edge_cell_shift": torch.zeros(2, 3),
            "atom_types": torch.zeros(2),
            "batch": torch.full((2,), n_systems),
            "num_atoms": torch.tensor([2]),
            "ptr": torch.tensor([n_atoms + 2]),
        }
        return {
            name: torch.cat([value, more[name].to(value)], dim=int(name == "edge_index"))
            for name, value in data.items()
        }


def load(source: Source, *, energy_unit: str = "eV") -> tuple[NequipPotential, dict[str, Any]]:
    """Return a model of nequip, and facts for `ModelInfo`.

    Args:
        source: A file: a package (.nequip.zip), or a model compiled to TorchScript (.nequip.pth).
        energy_unit: Unit of the energies that the model was trained on; lengths are in Å.

    Raises:
        ModelLoadError: If the file is neither, or is a package whose author is not trusted.
    """
    if energy_unit not in _UNITS:
        raise ModelLoadError(
            f"energy_unit: expected one of {', '.join(_UNITS)}, got {energy_unit!r}"
        )
    file = source.read()
    network, facts = _read(file)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    potential = NequipPotential(network, facts, _UNITS[energy_unit], source.device)
    if source.dtype not in (None, potential.dtype):
        raise ModelLoadError(
            f"{file.path}: dtype: it was saved in {named(potential.dtype)}, "
            f"got {named(source.dtype)}"
        )
    name = file.path.stem.removesuffix(".nequip")
    return potential, {
        "name": name,
        "n_parameters": n_parameters,
        "card": f"# {name}\n\nA NequIP or Allegro model, evaluated with the package nequip.\n",
    }


def _read(file: ModelFile) -> tuple[Any, dict[str, str]]:
    """Return the model in a file, and its metadata."""
    if file.path.name.endswith(".zip"):
        return _package(file)
    if file.path.name.endswith(".pth"):
        return _compiled(file)
    raise ModelLoadError(
        f"{file.path}: expected a package of nequip, NAME.nequip.zip, or a model compiled to "
        "TorchScript, NAME.nequip.pth; `nequip-package build` makes a package from a checkpoint"
    )


def _compiled(file: ModelFile) -> tuple[Any, dict[str, str]]:
    """Return a TorchScript model; reading it unpickles no Python."""
    found: dict[str, Any] = dict.fromkeys(_FACTS, "")
    try:
        network = torch.jit.load(io.BytesIO(file.content), map_location="cpu", _extra_files=found)
    except RuntimeError as error:
        raise ModelLoadError(f"{file.path}: not a model in TorchScript: {error}") from error
    facts = {key: value.decode() for key, value in found.items() if value}
    if missing := set(_FACTS) - facts.keys():
        raise ModelLoadError(
            f"{file.path}: expected a model that nequip compiled, got one without "
            f"{', '.join(sorted(missing))}"
        )
    return network, facts


def _frozen(network: Any) -> Any:
    """Return a network whose constants are folded, if it is TorchScript."""
    is_script = isinstance(network, torch.jit.ScriptModule)
    return torch.jit.freeze(network) if is_script else network


def _package(file: ModelFile) -> tuple[Any, dict[str, str]]:
    """Return the model in a package, which brings its own Python code along."""
    if not file.is_trusted:
        raise ModelLoadError(
            f"{file.path}: a package of nequip contains Python code, which runs when it is loaded. "
            "If you trust its author, add #sha256= with the hash that the author publishes, or "
            "start the server with --trust-pickles"
        )
    from nequip.model.saved_models.load_utils import load_saved_model

    with file.private_copy() as copy:
        network = load_saved_model(copy)
    return network, dict(network.metadata)
