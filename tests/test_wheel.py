"""Tests of the content of the wheel that `pip install twinforce` installs."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "twinforce": ROOT / "clients",
    "twinforce_dynamics": ROOT / "proto",
    "twinforce_models": ROOT / "models",
    "twinforce_proto": ROOT / "proto",
    "twinforce_service": ROOT / "service",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def contents(wheel, package):
    return {name for name in wheel.namelist() if name.startswith(f"{package}/")}


def test_the_wheel_holds_exactly_our_packages(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_the_wheel(wheel, package):
    root = PACKAGES[package]
    files = {
        path.relative_to(root).as_posix()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert contents(wheel, package) == files


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_ships_its_types(wheel, package):
    assert f"{package}/py.typed" in wheel.namelist()


def test_the_wheel_holds_the_api_definition(wheel):
    assert "twinforce_proto/v1/inference.proto" in wheel.namelist()


@pytest.mark.parametrize("model", ["water", "elements6"])
def test_the_wheel_holds_the_bundled_models_and_they_are_small(wheel, model):
    folder = f"twinforce_models/bundled/{model}/"
    sizes = {
        info.filename.removeprefix(folder): info.file_size
        for info in wheel.infolist()
        if info.filename.startswith(folder)
    }
    assert sizes.keys() == {"model.safetensors", "model.json", "CARD.md"}
    assert sum(sizes.values()) <= 2 * 1024**2, sizes


def test_the_wheel_requires_five_packages_and_states_its_license(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.partition(">=")[0] for line in required} == {
        "grpcio", "httpcore2", "httpx2", "numpy", "protobuf",
    }  # fmt: skip
    assert metadata["License-Expression"] == "BSD-3-Clause"


def test_the_wheel_declares_the_commands(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    for command in ("twinforce =", "twinforce-server =", "twinforce-train ="):
        assert command in text
