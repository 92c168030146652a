"""The order and size of batches, and which requests may wait: no threads, no I/O, no torch."""
