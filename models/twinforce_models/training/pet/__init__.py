"""The recipe of the native model for a PET, trained by metatrain: direct first, conservative after."""
