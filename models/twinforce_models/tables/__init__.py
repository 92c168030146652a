"""Batches as tables of fixed size, evaluated without asking the host anything."""
