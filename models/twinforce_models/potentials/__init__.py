"""One file per family of potentials; the toys are for tests and for measuring overhead."""
