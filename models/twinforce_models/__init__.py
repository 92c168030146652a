"""Interatomic potentials, and the batches of systems that they evaluate (torch)."""
