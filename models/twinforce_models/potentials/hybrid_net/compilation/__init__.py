"""The native network compiled ahead of time, once for all sizes, and kept in a folder."""
