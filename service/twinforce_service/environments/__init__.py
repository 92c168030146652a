"""Environments of Python for engines: their names, their interpreters, and how they are made."""
