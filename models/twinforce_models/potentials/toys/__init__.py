"""Analytic potentials for tests and examples."""
