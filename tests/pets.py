"""Small PETs with random weights, made by metatrain, and the predictions of metatomic for them.

Scales and energies per element are set as in training, so that tests notice if they are ignored.
"""

import copy
import functools

import ase
import metatensor.torch as mts
import numpy as np
import torch
from metatomic_ase import MetatomicCalculator
from metatrain.pet import PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

from twinforce_proto import Prediction, System

ELEMENTS = (1, 6, 8)
SMALL = {
    "cutoff": 3.5,
    "d_pet": 8,
    "d_head": 8,
    "d_node": 12,
    "d_feedforward": 16,
    "num_heads": 2,
    "num_attention_layers": 1,
    "num_gnn_layers": 2,
}
DIRECT = {
    "non_conservative_force": ("eV/angstrom", 1, "atom"),
    "non_conservative_stress": ("eV/angstrom^3", 2, "system"),
}


def make_pet(dtype=torch.float64, targets=("energy", *DIRECT), elements=ELEMENTS, seed=3, **hypers):
    """Return a PET; `hypers` override those in `SMALL`."""
    torch.manual_seed(seed)
    full = copy.deepcopy(get_default_hypers("pet")["model"]) | SMALL | hypers
    infos = {name: _target(name) for name in targets}
    pet = PET(full, DatasetInfo(length_unit="angstrom", atomic_types=[*elements], targets=infos))
    _fill_scaler(pet)
    _fill_composition(pet)
    if pet.system_conditioning is not None:
        torch.nn.init.normal_(pet.system_conditioning.project[2].weight, std=0.3)
    return pet.to(dtype).eval()


def save_both(pet, folder, name="pet"):
    """Write `folder`/name.ckpt and `folder`/name.pt; return their paths."""
    checkpoint, exported = folder / f"{name}.ckpt", folder / f"{name}.pt"
    torch.save(pet.get_checkpoint(), checkpoint)
    copy.deepcopy(pet).export().save(str(exported))
    return checkpoint, exported


@functools.cache
def calculator(path, variant=None, *, direct=False):
    """Return metatomic's own calculator, which computes only the requested quantities."""
    return MetatomicCalculator(
        str(path),
        device="cpu",
        non_conservative=direct,
        variants={"energy": variant} if variant else None,
        do_gradients_with_energy=False,
    )


def reference(path, system, variant=None, *, direct=True):
    """Return the prediction of `MetatomicCalculator`, which is called once per kind of forces.

    Args:
        path: Path of the exported model.
        system: System to evaluate.
        variant: Variant of the energy.
        direct: Direct outputs of the model: True or "forces".
    """
    atoms = to_atoms(system)
    results = {}
    for kind in ("conservative", "direct"):
        atoms.calc = calculator(path, variant, direct=direct if kind == "direct" else False)
        results[f"{kind}_forces"] = atoms.get_forces()
        if system.pbc.all():
            results[f"{kind}_stress"] = atoms.get_stress(voigt=False)
    atoms.calc = calculator(path, variant)
    return Prediction(
        energy=atoms.get_potential_energy(), atom_energies=atoms.get_potential_energies(), **results
    )


def to_atoms(system):
    atoms = ase.Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=system.pbc)
    atoms.info |= {"charge": system.charge or 0, "spin_multiplicity": system.spin_multiplicity or 1}
    return atoms


def systems():
    """Return a crystal smaller than the cutoff, a slab, a wire, a molecule with a cell, an atom."""
    rng = np.random.default_rng(5)
    skewed = np.array([[3.1, 0.4, 0.0], [0.2, 3.3, 0.5], [0.6, 0.1, 3.0]])
    box = np.diag([5.0, 6.0, 7.0])
    return [
        System([8, 1, 6], rng.uniform(-4, 9, (3, 3)), skewed, True),
        System(rng.choice(ELEMENTS, 9), _spread(rng, 9), box, [True, True, False]),
        System(rng.choice(ELEMENTS, 7), _spread(rng, 7), box, [False, False, True]),
        System(rng.choice(ELEMENTS, 8), _spread(rng, 8), box, False),
        System([6], [[0.3, 0.2, 0.1]]),
        System(rng.choice(ELEMENTS, 12), _spread(rng, 12), box, True),
    ]


def _spread(rng, n_atoms):
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return 1.7 * grid[:n_atoms] + rng.uniform(-0.25, 0.25, (n_atoms, 3))


def _target(name):
    base = name.partition("/")[0]
    if base == "energy":
        return get_energy_target_info(name, {"quantity": "energy", "unit": "eV"})
    unit, rank, kind = DIRECT[base.replace("forces", "force")]
    return get_generic_target_info(
        name,
        {
            "quantity": "",
            "unit": unit,
            "type": {"cartesian": {"rank": rank}},
            "sample_kind": kind,
            "num_subtargets": 1,
            "description": "",
        },
    )


def _fill_scaler(pet):
    for name in pet.target_names:
        buffer = f"{name}_scaler_buffer"
        scales = mts.load_buffer(getattr(pet.scaler, buffer))
        scales.block().values[:] = 0.5 + torch.rand_like(scales.block().values)
        setattr(pet.scaler, buffer, mts.save_buffer(scales))
    pet.scaler.sync_tensor_maps()


def _fill_composition(pet):
    composition = pet.additive_models[0]
    for name in composition.outputs:
        buffer = f"{name}_composition_buffer"
        weights = mts.load_buffer(getattr(composition, buffer))
        weights.block().values[:] = 3 * torch.rand_like(weights.block().values)
        setattr(composition, buffer, mts.save_buffer(weights))
    composition.sync_tensor_maps()
