"""Engines in processes of their own, and the messages that cross to and from them."""
