"""Evaluation of batches as tables of fixed size, without synchronizing with the device."""
