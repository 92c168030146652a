"""Compiled parts for a potential: cached ones immediately, others as soon as they are built.

A build takes a minute or two of one core, in a separate process. Nothing waits for it unless
requested; until it is done, and if it fails, the plain network is evaluated.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from twinforce_models.batch import Batch
from twinforce_models.potential import Potential
from twinforce_models.potentials.composed import Composed
from twinforce_models.potentials.hybrid_net.compilation.cache import is_built, path_of, prepared
from twinforce_models.potentials.hybrid_net.compilation.compiler import (
    compiler_name,
    has_compiler,
)
from twinforce_models.potentials.hybrid_net.compilation.loading import Compiled, load
from twinforce_models.potentials.hybrid_net.compilation.portable import (
    FOLDER,
    LEVEL,
    can_run,
    portable,
)
from twinforce_models.potentials.hybrid_net.compilation.potential import CompiledHybridNet
from twinforce_models.potentials.hybrid_net.compilation.spec import Part, Spec
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.prediction import predict_batch
from twinforce_proto import OUTPUTS, ModelLoadError, System

logger = logging.getLogger(__name__)

PARTS: tuple[Part, ...] = get_args(Part)

# Largest difference between compiled and plain results, relative to the largest component.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
_SPACING = 0.7  # of the atoms of the system that is compared, in cutoffs


def compiled(
    potential: Potential, folder: Path, n_threads: int, *, wait: bool = False
) -> Potential:
    """Return the potential with compiled parts; unchanged if it is not a native one.

    Of a composed potential only the direct part is compiled, and only for direct outputs.

    Args:
        potential: The native or composed potential; any other is returned unchanged.
        folder: Folder of the compiled parts; no other user may write there.
        n_threads: Number of CPU threads that one operation may use.
        wait: True to wait for parts that have to be built; otherwise they are used once they are
            done.

    Raises:
        ModelLoadError: If `wait` is set and a part could not be built.
    """
    if isinstance(potential, Composed) and isinstance(potential.direct, HybridNet):
        direct = _compiled(potential.direct, ("direct",), folder, n_threads, wait=wait)
        return Composed(potential.conservative, direct)
    if not isinstance(potential, HybridNet):
        return potential
    return _compiled(potential, PARTS, folder, n_threads, wait=wait)


def _compiled(
    potential: HybridNet, parts: Sequence[Part], folder: Path, n_threads: int, *, wait: bool
) -> CompiledHybridNet:
    target = CompiledHybridNet(potential)
    try:
        specs = [
            each for each in specs_of(potential, parts, n_threads) if not _use_shipped(target, each)
        ]
        if not specs:
            return target
        folder = prepared(folder)
        paths = {spec: path_of(spec, folder) for spec in specs}
        missing = {spec: path for spec, path in paths.items() if not _use_kept(target, spec, path)}
    except OSError as error:
        return _failed(target, str(error), wait=wait)
    if not missing:
        return target
    if not has_compiler():
        return _failed(target, f"{compiler_name()} is not installed", wait=wait)
    if wait:
        _build_all(target, missing, wait=True)
    else:
        build_all = partial(_build_all, target, missing, wait=False)
        threading.Thread(target=build_all, name="compiling", daemon=True).start()
    return target


def specs_of(potential: HybridNet, parts: Sequence[Part], n_threads: int) -> list[Spec]:
    """Return the specs of parts of a potential on its device."""
    dtype = str(potential.dtype).removeprefix("torch.")
    threads = n_threads if potential.device.type == "cpu" else 1
    h = potential.core.hyperparameters
    return [Spec(part, h, dtype, str(potential.device), threads) for part in parts]


def _use_shipped(target: CompiledHybridNet, spec: Spec) -> bool:
    """Use the part that comes with the package, and return True if this machine can run it."""
    shipped = portable(spec)
    try:
        if shipped is None or not (path := path_of(shipped, FOLDER)).exists():
            return False
        if can_run():
            return _use_kept(target, shipped, path)
    except OSError as error:  # another user may have installed the package
        logger.warning("a compiled part of the package is not used: %s", error)
        return False
    logger.warning("the compiled models need %s, which this processor lacks", LEVEL)
    return False


def _use_kept(target: CompiledHybridNet, spec: Spec, path: Path) -> bool:
    """Use the part if it has been built before, and return True if so."""
    if not is_built(path):
        return False
    try:
        part = load(path, spec)
        _check(target.plain, spec, part)
    except Exception as error:  # foreign machine code may raise anything
        logger.warning("%s cannot be used and will be built again: %s", path, error)
        with suppress(OSError):  # one that comes with the package may belong to another user
            path.unlink()
        return False
    target.use(spec, part)
    return True


def _build_all(target: CompiledHybridNet, paths: Mapping[Spec, Path], *, wait: bool) -> None:
    """Build and use all of the parts, in parallel if the caller waits for them."""
    one_by_one = [[each] for each in paths.items()]
    try:
        for some in [list(paths.items())] if wait else one_by_one:
            build(some, is_nice=not wait)
            for spec, path in some:
                if not _use_kept(target, spec, path):
                    raise ModelLoadError(f"the {spec.part} part was built but cannot be used")
    except (OSError, ModelLoadError) as error:
        _failed(target, str(error), wait=wait)


def build(some: Sequence[tuple[Spec, Path]], *, is_nice: bool) -> None:
    """Build parts, each in a separate process that ends with this one.

    Raises:
        ModelLoadError: If a part could not be built.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        processes = [stack.enter_context(_builder(*each, is_nice=is_nice)) for each in some]
        for (spec, _), process in zip(some, processes, strict=True):
            assert process.stderr is not None
            errors = process.stderr.read().strip()
            if process.wait():
                lines = [line for line in errors.splitlines() if line and not line.startswith(" ")]
                raise ModelLoadError(lines[-1] if lines else f"exit status {process.returncode}")
            logger.info("compiled the %s part in %.0f s", spec.part, time.monotonic() - started)


def _builder(spec: Spec, path: Path, *, is_nice: bool) -> subprocess.Popen[str]:
    module = "twinforce_models.potentials.hybrid_net.compilation.build"
    command = [sys.executable, "-P", "-m", module, str(path), *(["--nice"] if is_nice else [])]
    imports = os.pathsep.join(str(Path(each).absolute()) for each in sys.path)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": imports},
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(spec.to_json() + "\n")
    process.stdin.flush()
    return process


def _failed(target: CompiledHybridNet, reason: str, *, wait: bool) -> CompiledHybridNet:
    if wait:
        raise ModelLoadError(f"the network cannot be compiled: {reason}")
    logger.warning("the network is evaluated uncompiled, two to four times slower: %s", reason)
    return target


def _check(plain: HybridNet, spec: Spec, part: Compiled) -> None:
    """Compare a compiled part with the plain network on a few atoms.

    Raises:
        ArithmeticError: If the results differ.
    """
    compiled_net = CompiledHybridNet(plain)
    compiled_net.use(spec, part)
    outputs = [
        name for name in OUTPUTS if spec.part == "hybrid" or not name.startswith("conservative")
    ]
    batch = Batch.from_systems([_few_atoms(plain)], plain.cutoff, plain.dtype, plain.device)
    expected = predict_batch(plain, batch, outputs)
    actual = predict_batch(compiled_net, batch, outputs)
    for name in outputs:
        one, other = getattr(expected, name).double(), getattr(actual, name).double()
        error = float((one - other).abs().max() / one.abs().max().clamp(min=1e-3))
        if not error < _TOLERANCE[plain.dtype]:
            raise ArithmeticError(f"{name}: differs from that of the plain network by {error:.1g}")


def _few_atoms(plain: HybridNet) -> System:
    spacing = _SPACING * plain.cutoff
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    shaken = grid + np.random.default_rng(0).uniform(-0.1, 0.1, size=grid.shape)
    elements = [plain.elements[place % len(plain.elements)] for place in range(len(grid))]
    return System(elements, spacing * shaken, np.eye(3) * 3.5 * spacing, pbc=True)
