"""Write the lock files of images: every package that one installs, with its version and hashes."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.supply.packages import LOCKS, ROOT

# Images by their extra. For the CPU, PyTorch comes from an index of its own, with other hashes
# than at PyPI, and without the libraries of CUDA that PyPI's needs.
EXTRAS = ("server", "cuda")
TORCH = "torch-cpu"
UNREACHABLE = 3
_ONLY_CUDA = re.compile(r"(nvidia-|cuda-)\w|(torch|triton)==")
_LONGEST_S = 600


class NoHashError(Exception):
    """An index does not tell the hashes of its files."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.supply.lock", description=__doc__)
    parser.add_argument("--uv", default="uv", help="the program that resolves them")
    parser.add_argument("--upgrade", action="store_true", help="prefer the newest versions")
    parser.add_argument("--torch-index", help="lock PyTorch for the CPU, from this index, instead")
    arguments = parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    if arguments.torch_index:
        return _lock_torch(arguments.uv, arguments.torch_index)
    flags = ["--upgrade"] if arguments.upgrade else []
    for extra in EXTRAS:
        flags_of_extra = ["--extra", extra, str(ROOT / "pyproject.toml"), *flags]
        _compile(arguments.uv, extra, "hatchling\n", *flags_of_extra)
    return 0


def without_cuda(text: str) -> str:
    """Return the text of a lock file without PyTorch and what only its build for CUDA needs."""
    return "".join(each for each in _blocks(text) if not _ONLY_CUDA.match(each))


def _lock_torch(uv: str, index: str) -> int:
    try:
        _compile(uv, TORCH, "torch\n", "--no-deps", "--default-index", index)
    except (subprocess.CalledProcessError, NoHashError):
        reason = f"{index} does not tell of torch and its hashes"
        sys.stderr.write(f"locks/{TORCH}.lock was left as it was: {reason}\n")
        return UNREACHABLE
    return 0


def without_hashes(text: str) -> list[str]:
    """Return the entries of a lock file that have no hashes."""
    return [each.split()[0] for each in _blocks(text)[1:] if "--hash=sha256:" not in each]


def _blocks(text: str) -> list[str]:
    """Return the text before the first entry of a lock file, and its entries."""
    return re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)


def _compile(uv: str, name: str, requirements: str, *flags: str) -> None:
    """Resolve requirements to a lock file, near to its present versions."""
    path = LOCKS / f"{name}.lock"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        if path.exists():
            shutil.copy(path, draft)
        command = [uv, "pip", "compile", "-", *flags, "--universal", "--python-version", "3.11"]
        form = ["--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "make lock"]
        files = ["--constraint", str(ROOT / "constraints.txt"), "--output-file", str(draft)]
        subprocess.run(
            [*command, *form, *files, "--quiet"],
            input=requirements, text=True, check=True, cwd=ROOT, timeout=_LONGEST_S,
        )  # fmt: skip
        text = draft.read_text(encoding="utf-8")
        if missing := without_hashes(text):
            raise NoHashError(f"there are no hashes of {', '.join(missing)}")
        path.write_text(without_cuda(text) if name == "server" else text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
