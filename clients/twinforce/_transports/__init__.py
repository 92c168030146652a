"""One-method transports over gRPC and HTTP."""
