"""What TwinForce costs and how well its physics holds, measured: `make bench`."""
