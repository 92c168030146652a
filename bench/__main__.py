"""`python -m bench`, or `make bench`: what evaluations and remote steps cost, in some minutes."""

from bench import cost, overhead, propagation

if __name__ == "__main__":
    cost.main([])
    overhead.main([])
    propagation.main([])
