"""The engine: the thread that owns a device, and the work it does there."""
