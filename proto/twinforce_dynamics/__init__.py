"""Dynamics of atoms as pure steps: multiple time stepping, thermostats, a barostat, relaxation.

A step takes a state and returns the next one, without I/O: whoever drives the step evaluates the
forces that it needs, either through a service or inside one.
"""
