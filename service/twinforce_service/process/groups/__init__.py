"""Several engines used as one: of several devices, of several environments, of a hybrid."""
