"""Multiple time stepping by i-PI and by TwinForce with the same model, from the same start.

    python -m bench.studies.ipi system.xyz --url grpc://127.0.0.1:8001 --model hybrid

i-PI (Litman et al., J. Chem. Phys. 161, 062504 (2024)) splits forces with `mts_weights`: the outer
force is conservative minus direct, the inner one direct, in two force fields, each behind a socket
of its own. Both drivers ask the service for their kind of forces, so that the dynamics must be the
same, and the times differ by the ways to ask. It must be installed: `pip install ipi`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.socketio import SocketClient

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from twinforce import Client
from twinforce.ase import ForceKind, MultipleTimeStepping, TwinForceCalculator

# Lines of i-PI's output before the first step: a header for each property, and the start.
_N_HEADER = 5
# ASE's unit of momentum, sqrt(eV·amu), in atomic units divided by sqrt(amu/mₑ).
_ATOMIC_MOMENTUM = units.Ha**-0.5

_INPUT = """<simulation mode='md' verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out' flush='1'>
      [step, conserved{{electronvolt}}, potential{{electronvolt}}, kinetic_md{{electronvolt}}]
    </properties>
  </output>
  <total_steps>{n_outer}</total_steps>
  <ffsocket name='conservative' mode='unix' pbc='false'>
    <address>{conservative}</address> <latency>1e-4</latency>
  </ffsocket>
  <ffsocket name='direct' mode='unix' pbc='false'>
    <address>{direct}</address> <latency>1e-4</latency>
  </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='ase' units='ase'>start.xyz</file>
      <momenta mode='manual' units='atomic_unit'>{momenta}</momenta>
    </initialize>
    <forces>
      <force forcefield='conservative'> <mts_weights>[1, 0]</mts_weights> </force>
      <force forcefield='direct'> <mts_weights>[-1, 1]</mts_weights> </force>
    </forces>
    <motion mode='dynamics'>
      <fixcom>False</fixcom>
      <dynamics mode='nve'>
        <timestep units='femtosecond'>{outer_fs}</timestep>
        <nmts>[1, {inner_steps}]</nmts>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'>300</temperature> </ensemble>
  </system>
</simulation>
"""


def by_ipi(
    atoms: Atoms, url: str, model: str, n_outer: int, inner_steps: int, step_fs: float
) -> tuple[np.ndarray[Any, Any], float]:
    """Return the conserved energy after each outer step, in eV, and the seconds of all steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        names = {kind: f"{kind}-{path.name}" for kind in ("conservative", "direct")}
        momenta = atoms.get_momenta().ravel() * (units._amu / units._me) ** 0.5 * _ATOMIC_MOMENTUM
        ase.io.write(path / "start.xyz", atoms, format="extxyz")
        (path / "input.xml").write_text(
            _INPUT.format(
                n_outer=n_outer,
                inner_steps=inner_steps,
                outer_fs=inner_steps * step_fs,
                momenta=[float(each) for each in momenta],
                **names,
            )
        )
        program = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or "i-pi"
        with subprocess.Popen([program, "input.xml"], cwd=path, stdout=subprocess.DEVNULL) as ipi:
            for kind, name in names.items():
                threading.Thread(target=_drive, args=(atoms, url, model, kind, name)).start()
            rows, begin = path / "run.out", 0.0
            while ipi.poll() is None:
                if not begin and rows.exists() and len(rows.read_text().splitlines()) >= _N_HEADER:
                    begin = time.perf_counter()
                time.sleep(0.005)
            seconds = time.perf_counter() - begin
        if ipi.returncode:
            raise RuntimeError(f"i-pi failed with exit code {ipi.returncode}")
        return np.loadtxt(rows)[:, 1], seconds


def _drive(atoms: Atoms, url: str, model: str, kind: ForceKind, name: str) -> None:
    """Answer i-PI with one kind of forces until it ends."""
    mine = atoms.copy()
    socket = Path(f"/tmp/ipi_{name}")  # noqa: S108, the path is that of i-PI
    while not socket.exists():
        time.sleep(0.01)
    with TwinForceCalculator(url, model=model, force_kind=kind) as mine.calc:
        SocketClient(unixsocket=name).run(mine, use_stress=False)


def by_twinforce(
    atoms: Atoms, url: str, model: str, n_outer: int, inner_steps: int, step_fs: float
) -> tuple[np.ndarray[Any, Any], float]:
    """Return the conserved energy after each outer step, in eV, and the seconds of all steps."""
    mine = atoms.copy()
    with TwinForceCalculator(url, model=model) as mine.calc:
        dynamics = MultipleTimeStepping(mine, step_fs * units.fs, inner_steps=inner_steps)
        energies = [dynamics.conserved_energy()]
        begin = time.perf_counter()
        for _ in range(n_outer):
            dynamics.run(1)
            energies.append(dynamics.conserved_energy())
        return np.array(energies), time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both in turn, and write bench/results/ipi.json."""
    parser = parser_of("bench.studies.ipi", __doc__)
    parser.add_argument("system", type=Path, help="file with a system and its velocities")
    parser.add_argument("--url", required=True, help="address of the service")
    parser.add_argument("--model", help="name of the model")
    parser.add_argument("--inner-steps", type=int, default=8, help="M")
    parser.add_argument("--time-step", type=float, default=0.5, help="inner step, in fs")
    parser.add_argument("--steps", type=int, default=30, help="number of outer steps of a round")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--out", type=Path, default=RESULTS / "ipi.json", help="result to write")
    options = parser.parse_args(arguments)
    atoms = ase.io.read(options.system)
    with Client(options.url) as client:
        info = client.model(options.model)
    rounds = []
    for _ in range(options.rounds):
        asked = (
            atoms, options.url, info.name, options.steps, options.inner_steps, options.time_step
        )  # fmt: skip
        ours, our_s = by_twinforce(*asked)
        theirs, their_s = by_ipi(*asked)
        difference = np.abs((ours - ours[0]) - (theirs - theirs[0])).max()
        rounds.append(
            {
                "twinforce_s": our_s / options.steps,
                "ipi_s": their_s / options.steps,
                "ratio": their_s / our_s,
                "largest_energy_difference_ev": float(difference),
            }
        )
    result = {
        "model": {"name": info.name, "version": info.version, "sha256": info.sha256},
        "n_atoms": len(atoms),
        "inner_steps": options.inner_steps,
        "time_step_fs": options.time_step,
        "n_outer_steps": options.steps,
        "machine": describe_machine(1),
        "rounds": rounds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
