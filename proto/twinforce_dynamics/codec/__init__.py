"""The requests and states of dynamics to and from protobuf."""
