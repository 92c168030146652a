"""Parts that come with the package: for any processor of a level, without a compiler."""

import logging
import platform
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests.models.potentials.test_compilation import COMPILER, ONE_LAYER, net, water
from twinforce_models.potentials.composed import Composed
from twinforce_models.potentials.hybrid_net.compilation import bundled, compiling
from twinforce_models.potentials.hybrid_net.compilation.cache import path_of
from twinforce_models.potentials.hybrid_net.compilation.portable import can_run, portable
from twinforce_models.potentials.hybrid_net.compilation.spec import Spec
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError

HASWELL = (
    "fpu cx16 sse4_1 sse4_2 ssse3 pni lahf_lm popcnt movbe xsave avx f16c abm bmi1 avx2 bmi2 fma"
)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (HASWELL, True),
        (f"{HASWELL} avx512f", True),
        (HASWELL.replace("fma", ""), False),
        ("", False),
    ],
)
def test_the_level_of_a_processor_follows_from_its_instructions(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: some\nflags\t\t: {flags}\nflags\t\t: {flags}\n")
    assert can_run(cpuinfo) is expected
    assert not can_run(tmp_path / "absent")


def test_one_file_of_a_level_serves_any_number_of_threads(tmp_path):
    specs = [Spec("direct", ONE_LAYER, "float32", "cpu", n) for n in (1, 2)]
    one, other = (portable(each) for each in specs)
    assert one == other
    paths = {path_of(each, tmp_path) for each in (one, *specs)}
    assert len(paths) == 3
    assert portable(Spec("direct", ONE_LAYER, "float32", "cuda:0", 1)) is None


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Return the file of a part of the package that everyone may write to, for `net()`."""
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    (spec,) = (portable(each) for each in compiling.specs_of(net(), ["direct"], 1))
    path = path_of(spec, tmp_path)
    path.touch()
    path.chmod(0o666)
    return path


def test_instead_of_a_part_of_the_package_that_is_refused_another_is_built(
    shipped, tmp_path, monkeypatch, caplog
):
    builder = tmp_path / "builder"
    builder.write_text("#!/bin/sh\nread spec\necho nothing to build with >&2\nexit 1\n")
    builder.chmod(0o700)
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("sys.executable", str(builder))
    monkeypatch.setattr(compiling, "can_run", lambda: True)
    with caplog.at_level(logging.WARNING), pytest.raises(ModelLoadError, match="to build with"):
        compiling.compiled(net(), tmp_path / "cache", 1, wait=True)
    (record,) = caplog.records
    assert f"{shipped}: expected to belong to this user" in record.getMessage()


def test_a_processor_without_the_level_and_a_missing_compiler_are_named(
    shipped, tmp_path, monkeypatch, caplog
):
    assert shipped.exists()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(compiling, "can_run", lambda: False)
    with caplog.at_level(logging.WARNING):
        fast = compiling.compiled(net(), tmp_path / "cache", 1)
    assert fast.parts == set()
    lacks, uncompiled = (record.getMessage() for record in caplog.records)
    assert lacks == "the compiled models need x86-64-v3, which this processor lacks"
    assert uncompiled.endswith("two to four times slower: no-such-compiler is not installed")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_an_image_is_not_built_where_its_models_should_be_compiled_and_cannot(
    machine, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "compiled")
    monkeypatch.setattr(bundled, "can_run", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.argv", ["bundled", "x86-64-v3"])
    if machine == "x86_64":
        with pytest.raises(SystemExit, match="this processor lacks it"):
            bundled.main()
    else:
        bundled.main()
        assert capsys.readouterr().out.startswith("Nothing is compiled")
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (COMPILER and can_run()), reason="needs a C++ compiler and AVX2")
def test_a_part_of_the_package_is_used_without_a_compiler(tmp_path, monkeypatch, caplog):
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    shipped.mkdir(mode=0o755)
    plain = net(hyperparameters=ONE_LAYER)
    (spec,) = (portable(each) for each in compiling.specs_of(plain, ["direct"], 1))
    path = path_of(spec, shipped)
    compiling.build([(spec, path)], is_nice=False)
    assert "zmm" not in disassembled(path, tmp_path)

    monkeypatch.setattr(compiling, "FOLDER", shipped)
    monkeypatch.setenv("CXX", "no-such-compiler")
    composed = Composed(net(), plain)  # of which only the direct part is compiled
    (expected,) = predict(composed, [water()], ["direct_forces"])
    n_before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            fast = compiling.compiled(composed, cache, n_threads, wait=True)
            assert fast.direct.parts == {"direct"}
            (found,) = predict(fast, [water()], ["direct_forces"])
            np.testing.assert_allclose(found.direct_forces, expected.direct_forces, atol=1e-10)
    finally:
        torch.set_num_threads(n_before)
    assert not cache.exists()
    path.chmod(0o666)
    with caplog.at_level(logging.WARNING), pytest.raises(ModelLoadError, match="not installed"):
        compiling.compiled(composed, cache, 1, wait=True)
    assert "writable by no other" in caplog.text


def disassembled(path, folder):
    """Return the machine code of a compiled part as text; empty without the program for that."""
    if shutil.which("objdump") is None:
        return ""
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".so"))
        library = archive.extract(name, folder)
    command = ["objdump", "--disassemble", library]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ymm" in text
    return text
