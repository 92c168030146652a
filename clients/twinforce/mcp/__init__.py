"""A server of the Model Context Protocol, with which agents use a TwinForce service."""
