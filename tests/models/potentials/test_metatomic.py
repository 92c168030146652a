"""An exported model with energies per system only, and with an output that is not served."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035

import numpy as np
import pytest
import torch

pytest.importorskip("metatomic.torch", reason="metatomic is not installed")

from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from tests import pets
from twinforce_models import registry
from twinforce_models.contract.contract import check_potential
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, ModelLoadError, UnsupportedOutputError


class Springs(torch.nn.Module):
    """E = 50 Σ (r - r₀)² (1 - r/r_c)⁴ over a half list; the uncertainty is a tenth of it."""

    def __init__(self):
        super().__init__()
        self.options = NeighborListOptions(cutoff=3.0, full_list=False, strict=True)

    def requested_neighbor_lists(self) -> list[NeighborListOptions]:
        return [self.options]

    def forward(
        self,
        systems: List[System],  # noqa: UP006 - metatomic compares the annotations
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045, ARG002
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        rows: list[torch.Tensor] = []
        for system in systems:
            vectors = system.get_neighbor_list(self.options).values.reshape(-1, 3)
            r = torch.linalg.vector_norm(vectors, dim=1)
            rows.append((50.0 * (r - 1.4) ** 2 * (1 - r / 3.0) ** 4).sum().reshape(1, 1))
        energy = torch.cat(rows)
        numbers = torch.arange(len(systems), device=energy.device).reshape(-1, 1)
        zero = torch.zeros(1, 1, dtype=torch.int64, device=energy.device)
        result: dict[str, TensorMap] = {}
        for name in outputs:
            block = TensorBlock(
                energy if name == "energy" else 0.1 * energy,
                Labels(["system"], numbers),
                [],
                Labels(["energy"], zero),
            )
            result[name] = TensorMap(Labels(["_"], zero), [block])
        return result


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    names = ("energy", "energy_uncertainty")
    capabilities = ModelCapabilities(
        outputs={name: ModelOutput(unit="eV", sample_kind="system") for name in names},
        atomic_types=[1, 6, 8],
        interaction_range=3.0,
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype="float64",
    )
    file = tmp_path_factory.mktemp("springs") / "springs.pt"
    AtomisticModel(Springs().eval(), ModelMetadata(name="springs"), capabilities).save(str(file))
    return file


def test_energy_forces_and_stress_are_those_of_metatomic(path):
    model = registry.load(path)
    served = set(OUTPUTS) - {"atom_energies", "direct_forces", "direct_stress"}
    assert set(model.info.outputs) == served
    systems = pets.systems()
    free = predict(model.potential, systems, {"energy", "conservative_forces"})
    for system, prediction in zip(systems, free, strict=True):
        atoms = pets.to_atoms(system)
        atoms.calc = pets.calculator(path)
        np.testing.assert_allclose(prediction.energy, atoms.get_potential_energy(), atol=1e-10)
        np.testing.assert_allclose(prediction.conservative_forces, atoms.get_forces(), atol=1e-10)
    periodic = [system for system in systems if system.pbc.all()]
    for system, prediction in zip(
        periodic, predict(model.potential, periodic, served), strict=True
    ):
        atoms = pets.to_atoms(system)
        atoms.calc = pets.calculator(path)
        expected = atoms.get_stress(voigt=False)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(prediction.conservative_stress, expected, atol=1e-10)


def test_it_keeps_the_contract(path):
    check_potential(registry.load(path).potential).raise_if_broken()


def test_additional_outputs_are_listed_and_missing_ones_refused(path):
    model = registry.load(path)
    assert "energy_uncertainty" in model.info.metadata["metatomic_outputs"]
    with pytest.raises(UnsupportedOutputError, match="has no atom_energies"):
        predict(model.potential, pets.systems(), {"atom_energies"})


def test_an_exported_model_can_be_the_conservative_part_of_a_hybrid(path):
    composed = registry.load(f"conservative:{path}+direct:toy:lennard-jones", dtype="float64")
    assert "atom_energies" not in composed.info.outputs
    system = pets.systems()[-1]
    (answer,) = predict(composed.potential, [system], {"energy", "direct_forces"})
    (alone,) = predict(registry.load(path).potential, [system], {"energy"})
    assert answer.energy == pytest.approx(alone.energy, abs=1e-12)
    assert np.abs(answer.direct_forces).max() > 0


def listing(path, libraries, folder):
    """Return a copy of an exported model that lists compiled extensions, by name and path."""
    text = json.dumps([{"name": name, "path": each} for name, each in libraries.items()])
    copy = folder / "listing.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            is_list = entry.filename.endswith("/extra/extensions")
            new.writestr(entry.filename, text if is_list else old.read(entry))
    return copy


def test_the_package_of_an_extension_is_imported(path, tmp_path, monkeypatch):
    """It registers the derivatives of its operations, which a library alone may lack."""
    package = tmp_path / "site" / "twist" / "torch"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    libraries = {
        "twist_torch": "twist/torch/torch-2.0/lib/libtwist_torch.so",
        "outside": "../twist/libtwist.so",
    }
    model = registry.load(listing(path, libraries, tmp_path))
    assert Path(sys.modules["twist.torch"].__file__).parent == package
    assert model.info.elements == (1, 6, 8)  # the model itself needs neither of them
    for name in ("twist.torch", "twist"):
        monkeypatch.delitem(sys.modules, name)


def test_an_extension_that_is_missing_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "broken.pt", "w") as archive:
        libraries = [{"name": "twist_torch", "path": "twist/lib/libtwist_torch.so"}]
        archive.writestr("broken/extra/extensions", json.dumps(libraries))
    with pytest.raises(ModelLoadError, match=r"compiled extensions that are not.*: twist_torch$"):
        registry.load(tmp_path / "broken.pt")
