"""Models of fairchem: UMA, eSEN and others whose network is an eSCN-MD, on our neighbor list."""
