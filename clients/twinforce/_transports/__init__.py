"""The transports of the clients, over gRPC and over HTTP."""
