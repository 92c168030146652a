"""The calls that the service answers, independent of the transport."""
