"""A study that repeats the experiments of a paper with the bundled model: `make paper`."""
