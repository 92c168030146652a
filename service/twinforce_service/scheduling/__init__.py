"""Admission of requests, and the order and size of batches."""
