"""Small environments of Python for engines, made in seconds and without a network.

Each holds copies of some of the packages of this one, as hard links where the file system allows
it, so that what an engine has mapped tells where it comes from.
"""

import os
import re
import shutil
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROOTS = [ROOT / name for name in ("clients", "models", "proto", "service")]
OUR_SITE = Path(metadata.distribution("numpy").locate_file(""))
"""Folder of the packages of this environment."""


def make(folder, *, with_twinforce=True, with_tests=False):
    """Make an environment with what engines require, and return its interpreter.

    Args:
        folder: Folder of the environment.
        with_twinforce: True to install twinforce as from a checkout.
        with_tests: True to make the modules of these tests importable, too.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = site_of(folder)
    for name in required("engine"):
        copy(metadata.distribution(name), site)
    if with_twinforce:
        install(site, metadata.version("twinforce"))
    if with_tests:
        (site / "tests.pth").write_text(str(ROOT))
    return folder / "bin" / "python"


def make_empty(folder):
    """Make an environment without any packages, and return its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def site_of(folder):
    """Return the folder of the packages of an environment."""
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def install(site, version):
    """Install twinforce from this checkout."""
    info = site / f"twinforce-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: twinforce\nVersion: {version}\n")
    (site / "twinforce.pth").write_text("\n".join(map(str, ROOTS)))


def required(extra):
    """Return the names of all distributions that an extra of twinforce requires.

    What twinforce requires without any extra is for clients, but for what the contract needs.
    """
    found, waiting = set(), [*of_extra(extra), "numpy", "protobuf"]
    while waiting:
        name = waiting.pop()
        if name not in found and is_installed(name):
            found.add(name)
            waiting += [each for each in metadata.requires(name) or () if "extra ==" not in each]
            waiting = [re.match(r"[\w.-]+", each)[0].lower() for each in waiting]
    return found


def of_extra(extra):
    """Yield the requirements of an extra of twinforce, including those of extras in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in project["optional-dependencies"][extra]:
        if inner := re.match(r"twinforce\[([\w,]+)\]", each):
            for name in inner[1].split(","):
                yield from of_extra(name)
        else:
            yield each


def is_installed(name):
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def copy(distribution, site):
    """Copy a distribution to another environment."""
    for file in distribution.files:
        source = Path(distribution.locate_file(file))
        if file.parts[0] in ("..", "/") or not source.is_file():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # of another file system
            shutil.copy2(source, target)
