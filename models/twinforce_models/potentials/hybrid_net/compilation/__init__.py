"""The native network compiled ahead of time, once for all sizes, and cached in a folder."""
