"""Models of other projects: their specs, their files, and the families that read them."""
