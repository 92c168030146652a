"""The Open Inference Protocol, version 2, over REST and gRPC: systems and outputs as tensors."""
