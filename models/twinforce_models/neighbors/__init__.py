"""Neighbor lists of many systems at once."""
