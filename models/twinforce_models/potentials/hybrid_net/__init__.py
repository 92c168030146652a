"""The native hybrid network, plain and compiled."""
