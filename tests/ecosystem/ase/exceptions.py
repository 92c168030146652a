"""Tests of ASE that cannot pass with another calculator than EMT itself, and the reasons."""

# Tests that must fail, by file and name.
EXCEPTIONS = {
    "fio/test_extxyz.py::test_basic_functionality": "EMT has energies of atoms, served ones do not",
    "forcefields/test_forceqmmm.py::test_forceqmmm": "wants the attribute `rc` of EMT, its cutoff",
    "test_potential_energies.py::test_potential_energies": (
        "EMT has energies of atoms; models that are served with ase: have none"
    ),
}

# Tests that pass or fail by the last bit.
NOT_RUN = {
    "vibrations/test_bond_polarizability_raman.py::test_bulk": (
        "compares intensities of two modes of equal energy one by one, which of them is which "
        "depends on rounding"
    ),
}
