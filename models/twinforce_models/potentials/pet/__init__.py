"""Evaluation of metatrain's PET checkpoints."""
