"""Studies of the bundled models and of their training."""
