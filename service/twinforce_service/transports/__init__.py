"""The transports: REST and gRPC."""
