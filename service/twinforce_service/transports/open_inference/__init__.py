"""The Open Inference Protocol, version 2, over REST and gRPC: the calls of the service as tensors."""
