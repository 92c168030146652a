"""The connections of a client: the process, thread or event loop that owns each, and its end."""
