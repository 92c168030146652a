"""The callers of the service: names, shares and limits."""
