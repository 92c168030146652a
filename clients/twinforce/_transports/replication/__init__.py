"""Several replicas of a service behind one connection: names, loads, choices and moves."""
