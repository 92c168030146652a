"""The two stages of the native recipe, for a PET and its own trainer."""
