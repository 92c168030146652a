"""Tests that ASE finds the calculator by its name."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import get_calculator_class

from tests.clients.serving import ARGON
from tests.systems import molecule
from twinforce.ase import TwinForceCalculator

ROOT = Path(__file__).parents[3]


def test_ase_finds_the_class_by_name():
    assert get_calculator_class("twinforce") is TwinForceCalculator


def test_the_address_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)
    with get_calculator_class("twinforce")() as calculator:
        assert calculator.client.url == server.grpc_url
        assert calculator.info.name == "lj"
    monkeypatch.delenv("TWINFORCE_URL")
    with TwinForceCalculator() as calculator:
        assert calculator.client.url == "grpc://127.0.0.1:8001"


def test_the_command_line_of_ase_runs_the_calculator(server, tmp_path):
    atoms = Atoms([ARGON] * 8, molecule(8).positions)
    ase.io.write(tmp_path / "in.xyz", atoms)
    command = [
        sys.executable, "-m", "twinforce.ase", "run", "twinforce", "in.xyz", "-f", "0.002",
        "-p", f"url={server.grpc_url}", "-o", "out.json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    relaxed = ase.io.read(tmp_path / "out.json")
    assert np.abs(relaxed.get_forces()).max() <= 0.002
    with TwinForceCalculator(server.grpc_url) as atoms.calc:
        assert relaxed.get_potential_energy() < atoms.get_potential_energy() - 1e-3


def test_ase_lists_the_calculator_among_its_plugins():
    plugins = pytest.importorskip("ase._4.plugins", reason="ASE has no plugins before 3.27")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module = import_module(declared["ase.plugins"]["twinforce"])
    (plugin,) = plugins.PluginCollection(module.__ase_plugins__).calculators
    assert plugin.name == "twinforce"
    assert plugin.implementation is TwinForceCalculator


def test_loading_the_plugin_loads_nothing_of_ase_but_its_interface():
    program = (
        "import sys, twinforce.ase_plugin; "
        "print(sorted(name for name in sys.modules if name.startswith('twinforce.ase')))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['twinforce.ase_plugin']"
