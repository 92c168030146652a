"""Tests that the files of a release agree with each other."""

import re
import tomllib

import pytest
import yaml

from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def loaded(name):
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("CITATION.cff", r"^version: (\S+)$"),
        ("docs/conda/recipe.yaml", r"^  version: (\d\S+)$"),
        ("Dockerfile", r"^ARG VERSION=(\S+)$"),
        ("Makefile", r"--tag twinforce:(\d\S+)$"),
        ("helm/twinforce/Chart.yaml", r"^appVersion: \"?([^\s\"]+)\"?$"),
        ("docs/changelog.md", r"^## \[(\d\S+)\]"),
    ],
)
def test_every_file_has_the_version_of_the_project(name, pattern):
    found = re.search(pattern, (ROOT / name).read_text(), flags=re.MULTILINE)
    assert found, f"{name} has no version"
    assert found[1] == PROJECT["version"]


def test_the_recipe_of_conda_needs_what_the_package_needs():
    recipe = loaded("docs/conda/recipe.yaml")
    run = {re.sub(r"\s", "", each) for each in recipe["requirements"]["run"]}
    assert run == {*PROJECT["dependencies"], f"python{PROJECT['requires-python']}"}
    (hatchling,) = [each for each in recipe["requirements"]["host"] if "hatchling" in each]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert build["requires"] == [hatchling.replace(" ", "")]
    scripts = dict(each.split(" = ") for each in recipe["build"]["python"]["entry_points"])
    assert scripts == PROJECT["scripts"]
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_citation_has_what_its_format_demands():
    citation = loaded("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
