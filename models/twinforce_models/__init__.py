"""Potentials, and the batches they evaluate (torch)."""
