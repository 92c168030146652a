"""The units of work of an assessment."""
