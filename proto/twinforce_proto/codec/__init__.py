"""The domain types to and from protobuf and problem details."""
