"""Units and sign conventions, which every package and the wire share.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å³.

Forces are F = -dE/dr. The stress follows ASE: σ = (1/V) dE/dε with r' = r (1 + ε) and
h' = h (1 + ε), where vectors are rows; it is positive under tension, and the pressure is -tr(σ)/3.
The rows of a cell are its lattice vectors.
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
