"""Clusters without Kubernetes: the file in which servers say where they are, and batch scripts."""
