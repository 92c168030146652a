"""Build the image with buildah, run it as Kubernetes would, and use it: python -m tests.image.

The root file system is read-only, the user is that of the image, and what may be written lies in
volumes. The parts of models that were compiled with the image are used, so that nothing is compiled
in a container, and the default image has no compiler. The health check of the image succeeds, a
client evaluates a molecule over REST and gRPC with a key, the water of the demo moves with both
kinds of forces, and the service stops on a signal. Where there is no GPU, the service says so if it
is asked for one. Needs root, buildah and port 8002.

Flags, such as --build-arg EXTRA=cuda, go to buildah; with --no-build, they tell which image it is.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.image.pip_settings import volumes
from tests.ports import free_port
from tests.service.callers.making import add_key

ROOT = Path(__file__).parents[2]
TAG = "localhost/twinforce:trial"
# Mounts of a pod: what is read-only, and what may be written.
POD = """
set -e
mount --bind "$1" "$1"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$2" "$1/home/twinforce/.cache"
mkdir "$1/tmp/secrets"
cp "$3" "$1/tmp/secrets/keys.json"
chmod -R a+rX "$1/tmp/secrets"
chmod 1777 "$1/tmp"
mount -o remount,bind,ro "$1"
root=$1 folder=$4
shift 4
exec chroot --userspec=10001:10001 "$root" /usr/bin/env --ignore-environment --chdir="$folder" "$@"
"""


def told(*command: object, **options: Any) -> str:
    """Return what a command writes; its errors are shown as they come."""
    words = [str(each) for each in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, **options)
    return done.stdout.strip()


def build(flags: list[str], folder: Path) -> float:
    """Build the image, with the settings of pip of this machine; return the seconds it took."""
    begin = time.monotonic()
    command = [
        "buildah",
        "bud",
        "--isolation=chroot",
        "--format=docker",
        f"--tag={TAG}",
        *volumes(folder),
        *flags,
        str(ROOT),
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.monotonic() - begin


@contextmanager
def container() -> Iterator[Path]:
    """Yield the root file system of a new container of the image."""
    name = told("buildah", "from", TAG)
    try:
        yield Path(told("buildah", "mount", name))
    finally:
        told("buildah", "rm", name)


def image() -> dict[str, Any]:
    """Return the description of the image in the format of Docker."""
    found: dict[str, Any] = json.loads(told("buildah", "inspect", "--type=image", TAG))["Docker"]
    return found["config"]


def in_pod(root: Path, cache: Path, keys: Path, *program: str) -> list[str]:
    """Return the command that runs a program with the user, folder and environment of the image."""
    config = image()
    assert config["User"] == "10001:10001"
    pod = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    place = [str(root), str(cache), str(keys), config["WorkingDir"]]
    return [*pod, "bash", "-c", POD, "pod", *place, *config["Env"], *program]


@contextmanager
def service(
    root: Path, cache: Path, keys: Path, log: Path, *flags: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the image's own program, with a file for its log; yield it once it is ready."""
    command = in_pod(root, cache, keys, *image()["Entrypoint"], *flags)
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("TwinForce"), line
        yield process
    finally:
        process.kill()
        process.wait()
        sys.stderr.write(log.read_text())


def inner_pid(process: subprocess.Popen[str]) -> int:
    """Return the process of the service below `unshare`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def use(root: Path, folder: Path) -> dict[str, float]:
    """Run the service twice and use it; return how long it took to start, and to stop.

    Args:
        root: Root file system of the container.
        folder: Folder for its keys, its cache, and the logs `first.log` and `second.log`.
    """
    keys, cache = folder / "keys.json", folder / "cache"
    os.environ["TWINFORCE_KEY"] = add_key(keys, "alice")
    cache.mkdir(mode=0o700)
    os.chown(cache, 10001, 10001)
    rest, grpc = (str(free_port()) for _ in range(2))
    flags = [
        "--host=127.0.0.1",
        f"--rest-port={rest}",
        f"--grpc-port={grpc}",
        "--keys=/tmp/secrets/keys.json",
    ]
    urls = f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}"
    taken = {}
    for attempt in ("first", "second"):
        begin = time.monotonic()
        log = folder / f"{attempt}.log"
        with service(root, cache, keys, log, *flags) as process:
            taken[f"{attempt} start"] = time.monotonic() - begin
            predict = ROOT / "helm" / "twinforce" / "files" / "predict.py"
            sys.stderr.write(told(sys.executable, predict, *urls) + "\n")
            (kind, *health) = image()["Healthcheck"]["Test"]
            assert kind == "CMD"
            told(*in_pod(root, cache, keys, *health))
            if attempt == "second":
                md = ["md", ROOT / "demo" / "water64.xyz", "--url", urls[1]]
                md += ["--forces", "hybrid", "--steps", "16"]
                told(sys.executable, "-m", "twinforce.cli", *md, cwd=folder)
            begin = time.monotonic()
            os.kill(inner_pid(process), signal.SIGTERM)
            assert process.wait(60) == 0
            taken[f"{attempt} stop"] = time.monotonic() - begin
    return taken


def check_nothing_was_compiled(folder: Path) -> None:
    """Check that the service used the parts that come with the image, in the folder of `use`.

    Raises:
        AssertionError: If it evaluated a network uncompiled, or compiled a part or began to.
    """
    logs = [each.read_text() for each in sorted(folder.glob("*.log"))]
    assert len(logs) == 2
    assert not [log for log in logs if "compiled" in log], "the log above speaks of compiling"
    parts = [each for end in ("pt2", "lock") for each in (folder / "cache").rglob(f"*.{end}")]
    assert not parts, f"built in the container: {parts}"


def refusal_of_cuda(root: Path, folder: Path) -> str:
    """Return the error of a service that is asked for a GPU where there is none."""
    flags = ["--insecure", "--rest-port=0", "--grpc-port=0", "--device=cuda"]
    command = in_pod(root, folder / "cache", folder / "keys.json", "twinforce-server", *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip()


def sizes(root: Path) -> dict[str, int]:
    """Return the size of the image and of its largest parts, in MB."""
    found = {"all": root, "Debian": root / "usr", "service and packages": root / "opt"}
    packages = next((root / "opt/twinforce/lib").glob("python3*/site-packages"))
    found["torch"] = packages / "torch"
    return {
        name: int(told("du", "--summarize", "--block-size=1000000", path).split()[0])
        for name, path in found.items()
    }


def main() -> int:
    """Build, run and measure; print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="use the image that is there")
    arguments, flags = parser.parse_known_args()
    found: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="twinforce-image-"))
    folder.chmod(0o755)
    try:
        if not arguments.no_build:
            found["build"] = round(build(flags, folder), 1)
        with container() as root:
            found["MB"] = sizes(root)
            found["seconds"] = {name: round(s, 2) for name, s in use(root, folder).items()}
            if not Path("/dev/nvidiactl").exists():
                found["--device cuda"] = refusal_of_cuda(root, folder)
            compilers = [each for each in ("g++", "cc", "ld") if list(root.glob(f"usr/bin/{each}"))]
            found["compilers"] = compilers
            if platform.machine() == "x86_64" and "COMPILED_FOR=" not in " ".join(flags):
                check_nothing_was_compiled(folder)
                is_default = not {"EXTRA=cuda", "COMPILER=g++"}.intersection(flags)
                assert is_default == (compilers == []), compilers
    finally:
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
