"""A folder of compiled parts: the files hold machine code, so only their owner may write there.

The name of a file depends on everything that its content depends on: the part, the source code that
defines it, torch, and the processor or GPU. A file that does not match is never loaded; the part is
built anew.
"""

import hashlib
import os
import platform
import stat
from pathlib import Path

import torch

from twinforce_models.potentials.hybrid_net import core, fused, messages
from twinforce_models.potentials.hybrid_net.compilation.spec import Spec

_SOURCES = (
    *(Path(__file__).with_name(name) for name in ("spec.py", "build.py")),
    *(Path(str(module.__file__)) for module in (core, fused, messages)),
)
_ROOT = 0
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def prepared(folder: Path) -> Path:
    """Return the folder, created if it did not exist.

    Raises:
        OSError: If it cannot be created, or users other than its owner may write there.
    """
    try:
        folder = folder.expanduser()
    except RuntimeError as error:  # a user without a home directory, as in containers
        raise FileNotFoundError(f"{folder}: {error}") from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_own(folder)
    return folder


def path_of(spec: Spec, folder: Path) -> Path:
    """Return the path of a compiled part, whether it exists or not."""
    digest = hashlib.sha256()
    for text in (spec.to_json(), torch.__version__, platform.machine(), _hardware(spec)):
        digest.update(text.encode() + b"\0")
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return folder / f"{spec.part}-{digest.hexdigest()[:24]}.pt2"


def is_built(path: Path) -> bool:
    """Return True if a part has been built.

    Raises:
        OSError: If it has been built, but users other than its owner may write to it.
    """
    if not path.exists():
        return False
    _check_own(path)
    return True


def _check_own(path: Path) -> None:
    status = path.stat()
    is_ours = status.st_uid in (os.getuid(), _ROOT)
    if not is_ours or status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(
            f"{path}: expected to belong to this user, or to root, and to be writable by no other, "
            f"since it holds machine code; got owner {status.st_uid}, mode "
            f"{stat.filemode(status.st_mode)}"
        )


def _hardware(spec: Spec) -> str:
    """Return a description of the hardware that compiled code depends on."""
    if spec.level:
        return spec.level
    device = torch.device(spec.device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} {properties.major}.{properties.minor} {torch.version.cuda}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join(sorted(set(facts))) or platform.processor()
