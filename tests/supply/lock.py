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
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return "".join(each for each in blocks if not _ONLY_CUDA.match(each))


def _lock_torch(uv: str, index: str) -> int:
    flags = ["--no-deps", "--find-links" if Path(index).is_dir() else "--default-index", index]
    if Path(index).is_dir():
        flags.append("--no-index")
    try:
        _compile(uv, TORCH, "torch\n", *flags)
    except subprocess.CalledProcessError:
        sys.stderr.write(f"locks/{TORCH}.lock was left as it was: {index} does not tell of torch\n")
        return UNREACHABLE
    return 0


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
        path.write_text(without_cuda(text) if name == "server" else text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
