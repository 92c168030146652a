"""Malformed messages on every transport: `python -m tests.fuzz` sends many, a test sends some."""
