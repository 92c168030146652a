"""Neighbor lists: the search, lists kept for walkers, and estimates of their size."""
