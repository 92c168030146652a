"""Statistics and analysis of trajectories."""
