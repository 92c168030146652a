"""A simulation of many replicas, many walkers and what is decided between them.

python -m bench.studies.scaling
"""
