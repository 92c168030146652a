"""ORB models of Orbital Materials, with the network of the package orb-models."""
