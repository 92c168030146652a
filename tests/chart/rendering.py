"""The chart as Helm renders it."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "twinforce"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
RELEASE, NAMESPACE = "forces", "science"
# Folder of the programs that `make chart` installs.
_PROGRAMS = ROOT / ".venv-chart" / "bin"


def path_of(program):
    """Return the path of one of the programs that `make chart` installs, or that are there."""
    found = shutil.which(program, path=os.pathsep.join((str(_PROGRAMS), os.environ["PATH"])))
    assert found, f"{program} is missing: run make chart"
    return found


def run(program, *arguments, **options):
    """Run one of the programs of `make chart`; return what it did."""
    environment = os.environ | {"HELM_CONFIG_HOME": "/nonexistent"}
    environment.pop("PYTHONPATH", None)  # which names the packages of the tests
    command = [path_of(program), *map(str, arguments)]
    options = {"capture_output": True, "text": True, "env": environment} | options
    return subprocess.run(command, **options)


def template(*arguments, values=None, version="1.34"):
    """Return the text that Helm renders, or raise what it says against it."""
    given = [] if values is None else ["--values=-"]
    done = run(
        "helm",
        "template",
        RELEASE,
        CHART,
        f"--namespace={NAMESPACE}",
        f"--kube-version={version}",
        *given,
        *arguments,
        input=None if values is None else json.dumps(values),
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def rendered(values):
    """Return the objects of a release with these values: a file, or the values themselves."""
    if isinstance(values, Path):
        return objects_in(template(f"--values={values}"))
    return objects_in(template(values=values))


def unmounted(objects):
    """Return the settings that name files in the container which no volume holds."""
    _, container = server_of(objects)
    folders = [Path(each["mountPath"]) for each in container["volumeMounts"]]
    files = {
        name: Path(value)
        for name, value in tomllib.loads(settings_in(objects)).items()
        if isinstance(value, str) and value.startswith("/")
    }
    return [n for n, file in files.items() if not any(map(file.is_relative_to, folders))]


def objects_in(text):
    return [each for each in yaml.safe_load_all(text) if each]


def one(objects, kind, name=RELEASE):
    (found,) = (
        each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def server_of(objects):
    """Return the description of the pods, and of their container."""
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def settings_in(objects):
    """Return the text of the file of settings."""
    return one(objects, "ConfigMap")["data"]["settings.toml"]
