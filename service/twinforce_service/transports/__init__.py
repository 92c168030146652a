"""Thin adapters from a wire protocol to the engine: convert, submit, convert back."""
