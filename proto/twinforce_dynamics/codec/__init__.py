"""Conversion of requests to move a system, and of their updates, to and from protobuf messages."""
