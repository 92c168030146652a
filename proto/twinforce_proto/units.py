"""Units and sign conventions, the same in every package and on the wire.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å³.

Forces point down the energy: F = -dE/dr. Stress follows ASE: σ = (1/V) dE/dε with
r' = r (1 + ε) and h' = h (1 + ε), rows as vectors; positive is tension, and the
pressure is -tr(σ)/3. Cells hold their lattice vectors as rows.
"""

from collections.abc import Mapping

UNITS: Mapping[str, str] = {
    "energy": "eV",
    "atom_energies": "eV",
    "conservative_forces": "eV/Å",
    "direct_forces": "eV/Å",
    "conservative_stress": "eV/Å³",
    "direct_stress": "eV/Å³",
}
