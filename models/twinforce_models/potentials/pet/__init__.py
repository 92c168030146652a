"""PET checkpoints of metatrain, evaluated by our own code."""
