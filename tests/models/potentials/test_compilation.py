"""The compiled network predicts the same as the plain one for any batch, without blocking."""

import logging
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import free_ports
from tests.models.potentials.test_hybrid_net import water, write_model
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract.contract import check_potential
from twinforce_models.nonconservativity import direct_jacobian
from twinforce_models.potentials.composed import Composed
from twinforce_models.potentials.hybrid_net import fused
from twinforce_models.potentials.hybrid_net.compilation.build import exported
from twinforce_models.potentials.hybrid_net.compilation.cache import path_of, prepared
from twinforce_models.potentials.hybrid_net.compilation.compiling import PARTS, compiled
from twinforce_models.potentials.hybrid_net.compilation.potential import CompiledHybridNet
from twinforce_models.potentials.hybrid_net.compilation.spec import Spec, named_weights
from twinforce_models.potentials.hybrid_net.core import HybridCore, Hyperparameters
from twinforce_models.potentials.hybrid_net.potential import HybridNet, tabulate
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import OUTPUTS, ModelLoadError, System
from twinforce_service.embedded import run_in_thread

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
TINY = Hyperparameters(
    elements=(1, 8), cutoff=4.0, n_scalars=8, n_vectors=4, n_tensors=4, n_layers=2, n_radial=4
)
ONE_LAYER = replace(TINY, n_layers=1, repulsion_radii=(0.5, 0.6))
ASKED = [
    {"energy", "atom_energies"},
    {"direct_forces"},
    {"energy", "direct_forces", "direct_stress"},
    {"conservative_forces"},
    {"conservative_stress"},
    set(OUTPUTS),
]


def net(dtype=torch.float64, hyperparameters=TINY, device="cpu"):
    torch.manual_seed(0)
    core = HybridCore(hyperparameters)
    core.energy_scale.fill_(0.7)
    core.force_scale.fill_(1.3)
    return HybridNet(core.to(device, dtype), torch.tensor([-13.6, -432.0]))


def batches():
    """Return batches of one and of several systems: dense ones, open ones, one with a cell smaller
    than twice the cutoff, and a single atom."""
    molecule = System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    boxed = System(molecule.atomic_numbers, molecule.positions, np.diag([3.0, 4.0, -5.0]))
    slab = water(seed=3)
    slab = System(slab.atomic_numbers, slab.positions, slab.cell, [True, False, True])
    lone = System([8], [[0.0, 0.0, 0.0]])
    return [
        [water()],
        [water(n_molecules=27, length=9.3)],
        [molecule],
        [lone, lone],
        [water(seed=2), slab, boxed],
        [water(seed=2), molecule, lone, water(n_molecules=1, length=3.5)],
    ]


def fused_in_python(potential, parts=PARTS):
    """Return the potential with the parts that would be compiled, evaluated in plain Python."""
    compiled_net, n_weights = CompiledHybridNet(potential), len(named_weights(potential.core))
    for part in parts:
        evaluate = getattr(fused, part)
        compiled_net.use(
            Spec(part, potential.core.hyperparameters, "float64", "cpu", 1),
            lambda values, evaluate=evaluate: evaluate(
                potential.core, fused.Inputs(*values[n_weights:])
            ),
        )
    return compiled_net


def assert_same(fused, plain, tolerance):
    for systems in batches():
        batch = Batch.from_systems(systems, plain.cutoff, plain.dtype, plain.device)
        for outputs in ASKED:
            wanted = {name for name in outputs if "stress" not in name or batch.volumes.all()}
            if not wanted:
                continue
            expected = predict_batch(plain, batch, wanted)
            found = predict_batch(fused, batch, wanted)
            for name in OUTPUTS:
                one, other = getattr(expected, name), getattr(found, name)
                assert (one is None) == (other is None) == (name not in wanted)
                if one is not None:
                    scale = max(float(one.abs().max()), 1.0)
                    torch.testing.assert_close(
                        other,
                        one,
                        rtol=0,
                        atol=tolerance * scale,
                        msg=lambda m, n=name: f"{n}: {m}",
                    )


def test_the_form_for_compilers_has_the_same_values_and_derivatives():
    three_layers = Hyperparameters(
        elements=(1, 8),
        n_scalars=12,
        n_vectors=6,
        n_tensors=5,
        n_layers=3,
        n_radial=6,
        repulsion_radii=(0.5, 0.6),
    )
    plain = net(hyperparameters=three_layers)
    assert_same(fused_in_python(plain), plain, 1e-12)


def test_the_form_for_compilers_keeps_the_contract():
    check_potential(fused_in_python(net())).raise_if_broken()


def test_padding_does_not_change_the_results():
    core = net().core
    batch = Batch.from_systems([water()], TINY.cutoff)
    neighbors, vectors = tabulate(batch, TINY.cutoff)
    kinds = torch.tensor([1, 0, 0] * 8)
    itself = torch.arange(batch.n_atoms)[:, None].expand(-1, 9)
    far = torch.tensor([TINY.cutoff, 0, 0], dtype=torch.float64).expand(batch.n_atoms, 9, 3)
    narrow = fused.Inputs(kinds, neighbors, vectors)
    wide = narrow._replace(
        neighbors=torch.cat([neighbors, itself], 1), vectors=torch.cat([vectors, far], 1)
    )
    for one, other in zip(fused.hybrid(core, narrow), fused.hybrid(core, wide), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_the_jacobian_is_that_of_the_plain_network():
    plain = net()
    system = water(n_molecules=1, length=5.0)
    torch.testing.assert_close(
        direct_jacobian(fused_in_python(plain), system), direct_jacobian(plain, system)
    )


def test_a_part_that_is_not_compiled_yet_is_evaluated_by_the_plain_network():
    plain = net()
    half = fused_in_python(plain, ["direct"])
    expected = predict(plain, [water()], OUTPUTS)[0]
    found = predict(half, [water()], OUTPUTS)[0]
    np.testing.assert_array_equal(found.conservative_forces, expected.conservative_forces)


def test_other_potentials_are_returned_unchanged(tmp_path):
    toy = registry.load("toy:harmonic").potential
    assert compiled(toy, tmp_path, 1, wait=True) is toy


def test_a_folder_that_others_may_write_to_is_refused(tmp_path, caplog):
    tmp_path.chmod(0o777)
    with pytest.raises(ModelLoadError, match="writable by no other"):
        compiled(net(), tmp_path, 1, wait=True)
    with caplog.at_level(logging.WARNING):
        found = compiled(net(), tmp_path, 1)
    assert found.parts == frozenset()
    (record,) = caplog.records
    assert "evaluated uncompiled" in record.getMessage()


def test_the_folder_is_created_for_its_owner_only(tmp_path):
    folder = prepared(tmp_path / "new" / "folder")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_parts_compiled_differently_have_different_files(tmp_path):
    specs = [
        Spec(part, TINY, dtype, "cpu", n_threads)
        for part in PARTS
        for dtype in ("float32", "float64")
        for n_threads in (1, 2)
    ]
    assert len({path_of(spec, tmp_path) for spec in specs}) == len(specs) == 8
    assert path_of(Spec.from_json(specs[0].to_json()), tmp_path) == path_of(specs[0], tmp_path)


@pytest.mark.parametrize("name", ["water", "elements6"])
def test_a_bundled_model_can_be_exported_for_the_compiler(name):
    core = registry.load(name).potential.core
    program, _ = exported(Spec("direct", core.hyperparameters, "float64", "cpu", 1))
    core, cutoff = core.double(), core.hyperparameters.cutoff
    neighbors, vectors = tabulate(Batch.from_systems([water()], cutoff), cutoff)
    inputs = torch.tensor([1, 0, 0] * 8), neighbors, vectors
    with torch.no_grad():
        expected = fused.direct(core, fused.Inputs(*inputs))
        found = program.module()(list(named_weights(core).values()), *inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with the compiled parts of `net(hyperparameters=ONE_LAYER)`."""
    if not COMPILER:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("kept", numbered=True)
    usual = os.umask(0o002)  # the default of many systems: new files are writable by the group
    try:
        compiled(net(hyperparameters=ONE_LAYER), folder, 1, wait=True)
    finally:
        os.umask(usual)
    return folder


def test_a_user_without_a_home_gets_the_plain_network_and_a_warning(caplog):
    plain = net(hyperparameters=ONE_LAYER)
    folder = Path("~no-such-user/kept")
    with caplog.at_level(logging.WARNING):
        assert compiled(plain, folder, 1).parts == set()
    assert "no-such-user" in caplog.text
    with pytest.raises(ModelLoadError, match="home"):
        compiled(plain, folder, 1, wait=True)


@pytest.mark.slow
def test_the_network_is_compiled_once_for_all_sizes(kept, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")  # cached parts need no compiler
    plain = net(hyperparameters=ONE_LAYER)
    fast = compiled(plain, kept, 1, wait=True)
    assert fast.parts == set(PARTS)
    assert_same(fast, plain, 1e-11)
    check_potential(fast).raise_if_broken()


@pytest.mark.slow
def test_the_direct_part_of_a_composed_model_is_compiled(kept, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")  # cached parts need no compiler
    plain = net(hyperparameters=ONE_LAYER)
    conservative = net()
    fast = compiled(Composed(conservative, plain), kept, 1, wait=True)
    assert fast.direct.parts == {"direct"}
    assert fast.conservative is conservative
    assert_same(fast, Composed(conservative, plain), 1e-11)
    monkeypatch.setattr(HybridNet, "forward_heads", None)  # direct forces need no plain network
    (found,) = predict(fast, [water()], ["direct_forces"])
    monkeypatch.undo()
    (expected,) = predict(plain, [water()], ["direct_forces"])
    np.testing.assert_allclose(found.direct_forces, expected.direct_forces, atol=1e-10)
    torch.testing.assert_close(
        direct_jacobian(fast, water()), direct_jacobian(plain, water()), atol=1e-10, rtol=0
    )


@pytest.mark.slow
def test_a_service_uses_cached_parts_and_leaves_no_files_behind(kept, tmp_path, monkeypatch):
    model, temporary = tmp_path / "model", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    plain = net(hyperparameters=ONE_LAYER)
    write_model(plain, model)
    settings = free_ports(model={"tiny": str(model)}, compile="on", compile_cache=str(kept))
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        found = client.predict(water(), OUTPUTS, model="tiny")
    assert list(temporary.iterdir()) == []  # the machine code was unpacked here
    (expected,) = predict(plain, [water()], OUTPUTS)
    np.testing.assert_allclose(found.direct_forces, expected.direct_forces, atol=1e-10)
    np.testing.assert_allclose(found.conservative_forces, expected.conservative_forces, atol=1e-10)


@pytest.mark.slow
def test_a_cached_part_that_does_not_match_its_name_is_built_again(
    kept, tmp_path, caplog, monkeypatch
):
    folder = shutil.copytree(kept, tmp_path / "copy")
    direct, hybrid = sorted(folder.glob("*.pt2"))
    hybrid.write_bytes(direct.read_bytes())
    builder = tmp_path / "builder"
    builder.write_text("#!/bin/sh\nread spec\necho nothing to build with >&2\nexit 1\n")
    builder.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(builder))
    with caplog.at_level(logging.WARNING), pytest.raises(ModelLoadError, match="to build with"):
        compiled(net(hyperparameters=ONE_LAYER), folder, 1, wait=True)
    assert "will be built again" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_network_is_compiled_for_a_gpu(tmp_path):
    plain = net(torch.float32, device="cuda")
    fast = compiled(plain, tmp_path, 1, wait=True)
    assert fast.parts == set(PARTS)
    assert_same(fast, plain, 2e-5)
