"""Processes that a measurement runs beside the service, for comparison or as load."""
