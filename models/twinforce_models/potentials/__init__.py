"""Families of potentials, one module or package each; the toys serve tests and measurements."""
