"""Faults against a real service with real clients, each in processes of their own."""
