"""A model of a third party whose evaluation can be held up and can kill the process it is in."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.potentials import ARGON, NEON, Soft

HELIUM, KRYPTON, XENON = 2, 36, 54


class Troubled(Soft):
    """Argon is fine; helium waits at a gate, krypton raises, neon and xenon are deadly."""

    elements = (ARGON, HELIUM, NEON, KRYPTON, XENON)

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward_heads(self, batch, *, direct):
        numbers = set(batch.atomic_numbers.tolist())
        if HELIUM in numbers:
            while self.gate.exists():
                time.sleep(0.002)
        if NEON in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if KRYPTON in numbers:
            raise RuntimeError("no krypton, please")
        if XENON in numbers:
            raise SystemExit("the device is gone")
        return super().forward_heads(batch, direct=direct)


def load(directory, *_):
    """Load it, unless the file `deadly` is there: then the process is killed."""
    if (directory / "deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Troubled(directory / "gate")


def install(site):
    """Make the architecture known to all who have `site` on their path."""
    info = site / "troubled-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: troubled\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[twinforce.potentials]\ntroubled = {__name__}:load\n")


def write(directory):
    """Write a model directory of this architecture and return the path of its gate."""
    directory.mkdir()
    weights = directory / "model.safetensors"
    save_file({"nothing": torch.zeros(1)}, weights)
    metadata = {
        "name": "troubled",
        "version": "1",
        "architecture": "troubled",
        "cutoff": Soft.cutoff,
        "elements": sorted(Troubled.elements),
        "dtype": "float64",
        "outputs": sorted(Soft.outputs),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (directory / "model.json").write_text(json.dumps(metadata))
    return Path(directory / "gate")
