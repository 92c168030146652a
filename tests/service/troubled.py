"""A third-party model whose evaluation can be paused, can fail and can kill its process."""

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
# Seconds between two checks of a gate.
_INTERVAL = 0.002


class Troubled(Soft):
    """A potential that waits for helium at a gate, raises for krypton and exits for neon or xenon.

    The gate is closed while its file exists. The file holds the number of batches with helium that
    each process may evaluate all the same.
    """

    elements = (ARGON, HELIUM, NEON, KRYPTON, XENON)

    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.closed_at = None
        self.n_passed = 0

    def forward_heads(self, batch, *, direct):
        numbers = set(batch.atomic_numbers.tolist())
        if HELIUM in numbers:
            while not self._may_pass():
                time.sleep(_INTERVAL)
        if NEON in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if KRYPTON in numbers:
            raise RuntimeError("no krypton, please")
        if XENON in numbers:
            raise SystemExit("the device is gone")
        return super().forward_heads(batch, direct=direct)

    def _may_pass(self):
        """Return True and count the batch if helium may be evaluated now."""
        try:
            closed_at, n_allowed = self.gate.stat().st_mtime_ns, int(self.gate.read_text())
        except FileNotFoundError:
            return True
        if closed_at != self.closed_at:
            self.closed_at, self.n_passed = closed_at, 0
        if self.n_passed >= n_allowed:
            return False
        self.n_passed += 1
        return True


def load(directory, *_):
    """Load the model once the file `held` is gone; the file `deadly` kills the process."""
    if (directory / "deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while (directory / "held").exists():
        time.sleep(_INTERVAL)
    return Troubled(directory / "gate")


def install(site):
    """Register the architecture for every process that has `site` on its import path."""
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
