"""The inference service: batches, the engine that evaluates them, and the transports around it."""
