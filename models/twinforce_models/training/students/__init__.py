"""Students: small networks that learn from the labels of another model."""
