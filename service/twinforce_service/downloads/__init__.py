"""Files of models that are downloaded before the service starts, and the command that does so."""
