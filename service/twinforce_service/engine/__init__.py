"""The thread that owns a device, and its work: evaluating batches and moving systems."""
