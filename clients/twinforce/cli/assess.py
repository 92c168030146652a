"""`twinforce assess`: what a model's direct forces are good for, with the evidence."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from twinforce._client import Client
from twinforce.cli.arguments import positive, whole
from twinforce.cli.files import need, read_atoms

# As in `twinforce.assess`, which needs packages that this module must do without.
_PRESETS = ("quick", "standard", "paper")


def add_assess_command(commands: Any, asking: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "assess",
        parents=[asking],
        help="measure how safe direct forces and multiple time stepping are",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the system, in any ASE format")
    add("--index", default="-1", help="which atoms of the file")
    add("--model", help="its name; the only one, else water")
    add("--out", type=Path, default=Path("assessment"), help="a folder; goes on with what is there")
    add("--budget", type=float, default=60.0, metavar="MINUTES", help="of wall time; 0: no limit")
    add("--preset", choices=_PRESETS, default="standard", help="how much is done")
    add(
        "--pieces",
        default="",
        help="commas between; of lambda, loops, cost, optimise, resonance, nve, nvt, or parts of "
        "them such as nvt:direct or nvt:hybrid-4:svr:10 (default: all of the preset)",
    )
    add("--temperature", type=float, default=300.0, help="in K")
    add("--time-step", type=float, default=0.5, help="of inner steps, in fs")
    add("--hydrogen-mass", type=positive(float), help="in amu, taken from bonded atoms")
    add("--equilibration", type=float, default=1.0, help="before all simulations, in ps")
    add("--fmax", type=float, default=0.05, help="what an optimisation is to reach, in eV/Å")
    add("--seed", type=whole, default=0, help="of random numbers")
    add("--anew", action="store_true", help="delete an assessment of something else in the folder")
    parser.set_defaults(command=_run)


def _run(given: argparse.Namespace) -> None:
    for package in ("matplotlib", "tqdm"):
        need(package)
    assess = need("twinforce.assess")
    (atoms,) = read_atoms(given.file, given.index)[-1:]
    if given.hydrogen_mass:
        need("twinforce.ase").repartition_hydrogen_mass(atoms, given.hydrogen_mass)
    conditions = assess.Conditions(
        temperature_k=given.temperature,
        time_step_fs=given.time_step,
        equilibration_ps=given.equilibration,
        fmax=given.fmax,
        seed=given.seed,
    )
    with Client(given.url, timeout=given.timeout) as client:
        report = assess.assess(
            client,
            atoms,
            given.out,
            model=given.model,
            preset=given.preset,
            pieces=[each.strip() for each in given.pieces.split(",") if each.strip()],
            conditions=conditions,
            budget_minutes=given.budget or math.inf,
            anew=given.anew,
            progress=assess.Progress(),
        )
    sys.stdout.write("\n".join(report["verdict"]["advice"]) + "\n")
    sys.stdout.write(f"{given.out / 'report.html'}\n")
