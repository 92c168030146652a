"""A soak: mixed load for half an hour, during which memory and latencies have to stay flat.

`python -m tests.soak` measures, judges by the rules in `judging.py`, and writes docs/soak.md.
"""
