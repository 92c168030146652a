"""Tools that every measurement uses: timing, processes, test systems, and the record on disk."""
