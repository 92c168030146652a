"""Conversion of the domain types to and from protobuf messages and problem details."""
