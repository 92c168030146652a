"""Engines in processes of their own, and the messages that the processes exchange."""
