"""Tests of environments that cannot run an engine: the error at start says what to do."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import free_ports
from tests.service.environments import making
from twinforce import Client
from twinforce_models.potentials.toys import lennard_jones
from twinforce_proto import ModelLoadError, System
from twinforce_service.embedded import run_in_thread
from twinforce_service.process import entrance

HERE = metadata.version("twinforce")
LENT = os.pathsep.join(map(str, making.ROOTS))


def refusal(tmp_path, python, *, lent="", code=None):
    """Run the entrance of an engine process, and return why it refuses to go on."""
    failure = tmp_path / "failure"
    program = ["-c", code] if code else [entrance.__file__]
    command = [python, "-I", *program, HERE, lent, failure, tmp_path, "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    return failure.read_text()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return making.make_empty(tmp_path_factory.mktemp("empty") / "environment")


def test_without_twinforce_the_command_that_installs_it_is_given(tmp_path, empty):
    assert refusal(tmp_path, empty) == (
        f"twinforce is not installed there; run {empty} -m pip install 'twinforce[engine]=={HERE}'"
    )


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, empty):
    assert refusal(tmp_path, empty, lent=LENT) == (
        "a package that engines need is missing there (No module named 'numpy'); "
        f"run {empty} -m pip install 'twinforce[engine]'"
    )


def test_another_version_of_twinforce_is_named_beside_ours(tmp_path):
    python = making.make_empty(tmp_path / "environment")
    making.install(making.site_of(tmp_path / "environment"), "0.0.7")
    assert refusal(tmp_path, python, lent=LENT) == (
        f"it has twinforce 0.0.7, and the service is twinforce {HERE}; "
        f"run {python} -m pip install 'twinforce[engine]=={HERE}'"
    )


def test_a_python_that_is_too_old_is_named(tmp_path):
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 18); "
        f"runpy.run_path({entrance.__file__!r}, run_name='__main__')"
    )
    assert refusal(tmp_path, sys.executable, code=code) == (
        "its Python is 3.9, and twinforce needs 3.11 or later"
    )


def failure(tmp_path, **settings):
    """Return the error of a service that does not start."""
    values = {"model": {"a": "toy:harmonic#env=other"}, "environment_folder": str(tmp_path)}
    with pytest.raises(ModelLoadError) as failed:
        run_in_thread(free_ports(**values | settings))
    return str(failed.value)


def test_an_unknown_environment_is_an_error_with_a_way_out(tmp_path, empty):
    shutil.copytree(empty.parents[1], tmp_path / "mace", symlinks=True)
    text = failure(tmp_path, environment={"orb": "/envs/orb"})
    assert text == (
        "no environment is called 'other'; known: mace, orb. Make one with "
        "'twinforce-server env create other', or name an interpreter with "
        "--environment other=PATH/TO/bin/python"
    )


@pytest.mark.parametrize("place", ["nowhere/bin/python", "."])
def test_a_missing_interpreter_is_an_error(tmp_path, place):
    text = failure(tmp_path, environment={"other": str(tmp_path / place)})
    assert text.startswith(f"environment 'other': there is no interpreter at {tmp_path}")


def test_what_is_no_interpreter_is_an_error(tmp_path):
    text = failure(tmp_path, environment={"other": shutil.which("false")})
    assert text.startswith(f"environment 'other', {shutil.which('false')}: its process exited")


def test_the_reason_of_an_environment_is_the_error_of_the_service(tmp_path, empty):
    text = failure(tmp_path, environment={"other": str(empty)})
    assert text.startswith(f"environment 'other', {empty}: a package that engines need is missing")


def test_an_extra_that_is_missing_is_named_with_its_interpreter(tmp_path, other_python):
    models = {"seven": "sevenn:7net-0#env=other"}
    text = failure(tmp_path, model=models, environment={"other": str(other_python)})
    assert f"{other_python} -m pip install 'twinforce[sevenn]'" in text


def test_a_thread_has_no_other_environment(tmp_path, empty):
    text = failure(tmp_path, engine="thread", environment={"other": str(empty)})
    assert "expected --engine process" in text


def test_another_source_of_the_same_version_is_refused_when_it_is_ready(tmp_path):
    """Its messages may differ, whatever its version says."""
    python = making.make(tmp_path / "other", with_twinforce=False)
    site = making.site_of(tmp_path / "other")
    for root in making.ROOTS:
        shutil.copytree(root, site, dirs_exist_ok=True)
    making.install(site, HERE)
    (site / "twinforce.pth").unlink()
    with (site / "twinforce_service" / "process" / "messages.py").open("a") as file:
        file.write("# changed\n")
    text = failure(tmp_path, environment={"other": str(python)})
    assert f"environment 'other', {python}: its engine speaks the protocol" in text
    assert text.count(f"twinforce {HERE}") == 2


def test_a_folder_of_environments_needs_no_flag_and_a_checkout_is_lent(tmp_path):
    python = making.make(tmp_path / "other", with_twinforce=False)
    settings = free_ports(
        model={"a": "toy:lennard-jones#env=other"}, environment_folder=str(tmp_path)
    )
    with run_in_thread(settings) as server, Client(server.rest_url) as client:
        info = client.model("a")
        pair = System([18, 18], [[0, 0, 0], [3.4, 0, 0]])
        assert client.predict(pair, "energy").energy == pytest.approx(0, abs=1e-3)
    assert info.metadata["environment"] == "other"
    assert Path(lennard_jones.__file__).is_relative_to(making.ROOT)
    assert python.is_file()
