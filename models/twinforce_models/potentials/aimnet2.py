"""AIMNet2 models of molecules, with the network of the package aimnet on our neighbor list.

D. M. Anstine, R. Zubatyuk and O. Isayev, AIMNet2: a neural network potential to meet your neutral,
charged, organic, and elemental-organic needs, Chemical Science 16, 10228 (2025). A network predicts
an energy and charges, whose Coulomb energy is added, and so is dispersion, DFT-D3(BJ).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from aimnet import nbops
from aimnet.calculators import AIMNet2Calculator
from aimnet.calculators.model_registry import (
    get_cache_dir,
    get_registry_model_family,
    get_registry_model_path,
    load_model_registry,
    try_resolve_registry_model_name,
)
from aimnet.calculators.resolve import _apply_family_defaults
from aimnet.models.base import load_model
from aimnet.modules import AtomicShift
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source, download
from twinforce_models.potential import Exemption, Heads
from twinforce_proto import ModelLoadError

_NO_CUTOFF = (
    "charges in a molecule have no cutoff, so their forces change there as they do anywhere"
)


class Aimnet2Potential:
    """A `Potential` around a network, Coulomb's law and dispersion.

    In systems without periodic directions, all charges interact; in others, those within a cutoff,
    with the damped shifted force of C. J. Fennell and J. D. Gezelter, J. Chem. Phys. 124, 234104
    (2006), as in the package. The energies of free atoms, Coulomb's law and dispersion are summed
    in float64. There is no energy of single atoms.

    Attributes:
        cutoff: Largest cutoff radius, in Å: that of charges and dispersion. That of the network is
            shorter.
        exemptions: Known exceptions to the contract of potentials.
    """

    exemptions = (Exemption("energy and forces continuous at the cutoff", 1e-6, _NO_CUTOFF),)
    outputs = frozenset({"energy", "conservative_forces", "conservative_stress"})

    def __init__(
        self, package: AIMNet2Calculator, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Wrap what a calculator of the package is made of.

        Args:
            package: A calculator, whose network is used and changed.
            dtype: Data type of the network.
            device: Device of the computation.
        """
        self._network: Any = _converted(package.model, dtype).eval().requires_grad_(False)
        self._network.aev.forward = self._basis
        self._near = float(package.cutoff)
        self._coulomb: Any
        self._dispersion: Any
        self._coulomb, self._dispersion = (
            None if module is None else module.to(device, torch.float64)
            for module in (package.external_coulomb, package.external_dftd3)
        )
        self._has_far = bool(package.lr)
        reach = [self._coulomb and self._coulomb.dsf_rc, package.dftd3_cutoff]
        self.cutoff = max(self._near, *filter(None, reach)) if self._has_far else self._near
        self.device, self.dtype = device, dtype
        about = package.metadata or {}
        self.elements = tuple(sorted(about.get("implemented_species", ())))
        self.uses_charge = about.get("supports_charged_systems") is not False
        self.uses_spin = bool(package.is_nse)

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once; there are no direct heads."""
        data = self._data(batch)
        energy = self._network.forward_prepared(data)["energy"].to(torch.float64)
        if self._coulomb is not None:
            energy = energy + self._charges(batch, data)
        if self._dispersion is not None:
            energy = energy + self._dispersion._compute_energy_torch(data)
        return Heads(None, energy=energy)

    def _data(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as the network takes it: neighbors in rows, and one more, empty atom."""
        near = batch.within(self._near)
        neighbors, vectors = _in_rows(near.pairs, near.displacements(), batch.n_atoms)
        last = torch.full((1,), batch.n_systems - 1, device=self.device)
        data = {
            "numbers": _with_empty(batch.atomic_numbers),
            "mol_idx": torch.cat([batch.system_index, last]),
            "charge": batch.charge.to(self.dtype),
            "mult": batch.spin_multiplicity.to(self.dtype),
            "nbmat": neighbors,
            "vectors": vectors,
        }
        if self._has_far:
            data |= self._far(batch)
        return dict(nbops.calc_masks(nbops.set_nb_mode(data)))

    def _far(self, batch: Batch) -> dict[str, Tensor]:
        """Return the pairs that charges and dispersion act on."""
        is_open = ~batch.pbc.any(dim=1)
        pairs, shifts = batch.pairs, batch.shifts
        if bool(is_open.any()):
            listed = ~is_open[batch.system_index[pairs[0]]]
            every = torch.cat(list(_every_pair(batch, is_open.tolist())), dim=1)
            pairs = torch.cat([pairs[:, listed], every], dim=1)
            shifts = torch.cat([shifts[listed], shifts.new_zeros(every.shape[1], 3)])
            order = pairs[0].argsort(stable=True)
            pairs, shifts = pairs[:, order], shifts[order]
        i, j = pairs
        offsets = torch.einsum("pi,pij->pj", shifts, batch.cells[batch.system_index[i]])
        apart = batch.positions.index_select(0, j) - batch.positions.index_select(0, i) + offsets
        neighbors, vectors = _in_rows(pairs, apart, batch.n_atoms)
        return {
            "coord": _with_empty(batch.positions),
            "cell": batch.cells,
            "nbmat_lr": neighbors,
            "shifts_lr": _in_rows(pairs, shifts, batch.n_atoms)[1],
            "d_ij_lr": vectors.norm(dim=2),
        }

    def _basis(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add distances and directions, in place of the network's own subtraction of positions."""
        vectors = data["vectors"]
        data["d_ij"] = vectors.norm(dim=2)
        data["g_sv"] = self._network.aev._calc_aev(vectors, data["d_ij"], data)
        return data

    def _charges(self, batch: Batch, data: dict[str, Any]) -> Tensor:
        """Return the Coulomb energy of each system beyond what the network includes, in eV."""
        is_open = ~batch.pbc.any(dim=1)
        data = {**data, "charges": data["charges"].to(torch.float64)}
        if bool(is_open.all()):
            every: Tensor = self._coulomb.coul_simple(data)
            return every
        near: Tensor = self._coulomb._coul_dsf_torch(data)
        if bool(is_open.any()):
            return torch.where(is_open, self._coulomb.coul_simple(data), near)
        return near


def _converted(network: Any, dtype: torch.dtype) -> Any:
    """Return a network in a dtype, but for the energies of free atoms, which stay float64."""
    free = {each: each.shifts.weight.data for each in network.modules() if _is_shift(each)}
    network = network.to(dtype)
    for each, energies in free.items():
        each.shifts.weight.data = energies
    return network


def _is_shift(module: Any) -> bool:
    return isinstance(module, AtomicShift)


def _every_pair(batch: Batch, is_open: list[bool]) -> Iterator[Tensor]:
    """Yield all pairs of each system without periodic directions, shape [2, n_pairs]."""
    first = 0
    for n_atoms, chosen in zip(batch.n_atoms_per_system, is_open, strict=True):
        if chosen:
            atoms = torch.arange(first, first + n_atoms, device=batch.positions.device)
            pairs = torch.cartesian_prod(atoms, atoms)
            yield pairs[pairs[:, 0] != pairs[:, 1]].T
        first += n_atoms


def _in_rows(pairs: Tensor, values: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Return neighbors and values of pairs in one row per center, with a row for the empty atom.

    Args:
        pairs: Center and neighbor, shape [2, n_pairs], sorted by center.
        values: Shape [n_pairs, 3].
        n_atoms: Number of atoms; also the number of the empty atom, which fills the rows.

    Returns:
        Shapes [n_atoms + 1, width] and [n_atoms + 1, width, 3]; values of empty places are 1.
    """
    centers = pairs[0]
    counts = torch.bincount(centers, minlength=n_atoms)
    first = counts.cumsum(0) - counts
    columns = torch.arange(len(centers), device=centers.device) - first[centers]
    shape = (n_atoms + 1, max(1, int(counts.max())))
    neighbors = torch.full(shape, n_atoms, dtype=torch.int32, device=centers.device)
    neighbors[centers, columns] = pairs[1].to(torch.int32)
    rows = values.new_ones((*shape, 3)).index_put((centers, columns), values)
    return neighbors, rows


def _with_empty(values: Tensor) -> Tensor:
    """Return values of atoms, and zero for the empty atom."""
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])])


def load(source: Source) -> tuple[Aimnet2Potential, dict[str, Any]]:
    """Return an AIMNet2 model, and facts for `ModelInfo`.

    Args:
        source: A file as `aimnet export` and `aimnet convert` write it, or a published name, such
            as "aimnet2", "aimnet2-b973c-d3_1" or "aimnet2-nse".

    Raises:
        ModelLoadError: If the model cannot be found, or is not one of AIMNet2.
    """
    file = source.read(find)
    family = get_registry_model_family(source.place) if file.is_published else None
    calculator = AIMNet2Calculator(_network(file, family), device=str(source.device))
    name = source.place if file.is_published else file.path.stem
    potential = Aimnet2Potential(calculator, source.dtype or torch.float32, source.device)
    about = dict(calculator.metadata or {})
    return potential, {
        "name": name,
        "n_parameters": sum(each.numel() for each in calculator.model.parameters()),
        "metadata": {
            "family": about.get("family"),
            "charges": "all in a molecule; damped shifted force within "
            f"{potential.cutoff:g} Å if periodic"
            if calculator.has_external_coulomb
            else "none",
            "dispersion": about.get("d3_params") or "none added",
        },
        "card": f"# {name}\n\nAn AIMNet2 model, evaluated with the package aimnet.\n",
    }


def _network(file: ModelFile, family: str | None) -> Any:
    """Return the network in a file, with its metadata attached."""
    if file.path.suffix == ".jpt":
        raise ModelLoadError(
            f"{file.path}: a model of the former format is a compiled program; convert it with "
            "`aimnet convert`"
        )
    if not isinstance(saved := file.unpickle(), dict) or "model_yaml" not in saved:
        raise ModelLoadError(f"{file.path}: expected a model of AIMNet2, with its settings")
    try:
        with file.private_copy() as copy:  # of which the package calls only classes of its own
            network, metadata = load_model(str(copy))
        network.__dict__["_metadata"] = _apply_family_defaults(metadata, family)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{file.path}: not a model of AIMNet2: {error}") from error
    return network


def find(name: str) -> Path:
    """Return the path of a published model, downloading it if necessary.

    Downloads go to the cache of the package, which compares their hash.

    Args:
        name: A published name.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    published = load_model_registry()
    if (known := try_resolve_registry_model_name(name)) is None:
        raise ModelLoadError(
            f"model 'aimnet2:{name}': there is no such file, and aimnet publishes no such model; "
            f"it publishes {', '.join(published['models'])}"
        )
    url = published["models"][known]["url"]
    fetch = partial(get_registry_model_path, known)
    return download(f"aimnet2:{name}", url, get_cache_dir(), fetch)
