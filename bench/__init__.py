"""Measurements of what TwinForce costs and of how well its physics holds: `make bench`."""
