"""Global state that other packages change when they are imported or load a model."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def undone_side_effects() -> Iterator[None]:
    """Restore the global state of this process at the end, as other models rely on it.

    That is: torch's default dtype and device, the precision of its matrix products, its gradient
    mode and number of threads, the random numbers of torch, numpy and Python, the way in which
    processes share tensors, environment variables, filters of warnings, and the root logger. Some
    packages set `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`, which makes `torch.load` run
    code in files, for every package in the process.
    """
    before = [read() for read, _ in _STATE]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for (read, restore), value in zip(_STATE, before, strict=True):
                if read() != value:
                    restore(value)


def _precision() -> tuple[Any, ...]:
    backends = torch.backends
    return (
        _asked(torch.get_float32_matmul_precision),
        _asked(lambda: backends.cudnn.allow_tf32),
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        *(each.fp32_precision for each in _with_precision()),
    )


def _set_precision(values: tuple[Any, ...]) -> None:
    precision, tf32, benchmark, deterministic, only_deterministic, *fp32 = values
    # These two set some of the others, which therefore come last.
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    if tf32 is not None:
        torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(only_deterministic)
    for each, value in zip(_with_precision(), fp32, strict=True):
        if each.fp32_precision != value:
            each.fp32_precision = value


def _asked(read: Callable[[], Any]) -> Any:
    """Return what torch says, or None if it refuses as two of its interfaces disagree."""
    try:
        return read()
    except RuntimeError:
        return None


def _with_precision() -> list[Any]:
    """Return what has a precision of float32 of its own, in torch 2.9 and later, general first."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    of_parts = (getattr(module, part, None) for module in (cudnn, mkldnn) for part in _PARTS)
    found = (backends, cudnn, mkldnn, backends.cuda.matmul, *of_parts)
    return [each for each in found if hasattr(each, "fp32_precision")]


def _set_device(device: torch.device) -> None:
    # A default device slows every operation down; None means the CPU without doing so.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_environment(values: dict[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


def _numpy_random() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return name, np.asarray(keys).tobytes(), *rest


def _set_numpy_random(values: tuple[Any, ...]) -> None:
    name, keys, *rest = values
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))


def _root_logger() -> tuple[int, list[logging.Handler]]:
    root = logging.getLogger()
    return root.level, list(root.handlers)


def _set_root_logger(values: tuple[int, list[logging.Handler]]) -> None:
    root = logging.getLogger()
    root.setLevel(values[0])
    root.handlers[:] = values[1]


_PARTS = ("matmul", "conv", "rnn")
"""Kinds of operations that may have another precision than the rest of their backend."""

_STATE: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (_precision, _set_precision),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (random.getstate, random.setstate),
    (_numpy_random, _set_numpy_random),
    (torch.multiprocessing.get_sharing_strategy, torch.multiprocessing.set_sharing_strategy),
    (os.environ.copy, _set_environment),
    (_root_logger, _set_root_logger),
]
