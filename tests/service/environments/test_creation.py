"""Tests of how environments are made: the commands, what is left after a failure, and the pins."""

import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.service.environments import making
from twinforce_service.environments import creation
from twinforce_service.environments.command import run
from twinforce_service.environments.creation import EnvironmentPlan, known_families
from twinforce_service.environments.environment import python_in

PINS = making.ROOT / "service" / "twinforce_service" / "environments" / "pins"
EXTRAS = sorted(path.stem for path in PINS.glob("*.txt"))
PROJECT = tomllib.loads((making.ROOT / "pyproject.toml").read_text())["project"]


def pinned(extra):
    lines = (PINS / f"{extra}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_family_with_an_extra_has_pins():
    from twinforce_models.loading.catalog import _BUILT_IN

    assert {family.extra for family in _BUILT_IN} == set(EXTRAS)
    assert {family.name for family in _BUILT_IN} == set(known_families())


@pytest.mark.parametrize("extra", EXTRAS)
def test_pins_satisfy_what_the_extras_require(extra):
    pins = pinned(extra)
    for line in [*making.of_extra("engine"), *making.of_extra(extra), *PROJECT["dependencies"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[normalized(requirement.name)]), line


def test_the_environment_of_the_service_is_the_model_of_all_others(tmp_path):
    plan = EnvironmentPlan(tmp_path / "x", ["sevenn"], torch_index="https://example.org/cpu")
    make, torch, packages, check = plan.commands()
    python = str(tmp_path / "x" / "bin" / "python")
    assert make == [sys.executable, "-m", "venv", str(tmp_path / "x")]
    pins = ["--constraint", str(PINS / "sevenn.txt")]
    assert torch[:3] == packages[:3] == [python, "-m", "pip"]
    index = ["--extra-index-url", "https://example.org/cpu"]
    assert torch[-6:] == [*pins, "--no-deps", *index, "torch"]
    assert packages[-4:] == [*pins, "--editable", f"{making.ROOT}[engine,sevenn]"]
    assert check[:2] == [python, "-I"]


def test_uv_and_several_families_and_packages(tmp_path):
    plan = EnvironmentPlan(
        tmp_path / "x", ["upet", "orb"], "uv", "3.12", requirements=["tblite==0.4"]
    )
    make, torch, packages, _ = plan.commands()
    python = str(tmp_path / "x" / "bin" / "python")
    assert make == ["uv", "venv", "--python", "3.12", str(tmp_path / "x")]
    assert torch[:5] == ["uv", "pip", "install", "--python", python]
    assert "--extra-index-url" not in torch
    assert [str(PINS / f"{each}.txt") in packages for each in ("pet", "orb")] == [True, True]
    assert packages[-2:] == [f"{making.ROOT}[engine,pet,orb]", "tblite==0.4"]


def test_a_package_that_cannot_have_its_requirements_is_installed_without_them(tmp_path):
    *_, alone, _ = EnvironmentPlan(tmp_path / "x", ["mattersim"]).commands()
    assert alone[-2:] == ["--no-deps", "mattersim>=1.2.3,<1.3"]


def test_torch_comes_from_the_index_of_the_build_that_is_used_here():
    import torch

    index = creation.torch_index_of_this()
    kind = f"cu{torch.version.cuda.replace('.', '')}" if torch.version.cuda else "cpu"
    assert index == f"https://download.pytorch.org/whl/{kind}"


def test_a_failure_leaves_nothing_behind(tmp_path, capfd):
    arguments = ["create", "sevenn", "--python", "/bin/false"]
    assert run(arguments, str(tmp_path)) == 1
    err = capfd.readouterr().err
    assert "this command exited with code 1" in err
    assert f"/bin/false -m venv {tmp_path / 'sevenn'}" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sevennet", "expected families out of aimnet2, .*, upet, got sevennet"),
        ("mine sevenn orbs", "got orbs"),
        ("main sevenn", "expected a name .* other than 'main', got 'main'"),
        ("a/b sevenn", "got 'a/b'"),
        ("sevenn --tool uv", "there is no uv; run"),
        ("taken sevenn", "taken exists already"),
    ],
)
def test_what_cannot_be_made_is_an_error(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "taken").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["create", "--torch-index", "", *arguments.split()], str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("twinforce-server env: error: ")
    assert re.search(message, line)


def test_environments_are_listed_with_their_versions(tmp_path, capsys):
    assert run(["list"], str(tmp_path / "none")) == 0
    assert capsys.readouterr().out == f"There are no environments in {tmp_path / 'none'}.\n"
    making.make_empty(tmp_path / "bare")
    making.make_empty(tmp_path / "full")
    making.install(making.site_of(tmp_path / "full"), "9.8")
    (tmp_path / "other").mkdir()
    assert run(["list"], str(tmp_path)) == 0
    heading, bare, full = (line.split() for line in capsys.readouterr().out.splitlines())
    version = ".".join(map(str, sys.version_info[:3]))
    assert heading == ["name", "python", "twinforce", "interpreter"]
    assert bare == ["bare", version, "none", str(python_in(tmp_path / "bare"))]
    assert full == ["full", version, "9.8", str(python_in(tmp_path / "full"))]
