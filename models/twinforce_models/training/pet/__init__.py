"""Training of a PET with metatrain, in the two stages of the native recipe."""
