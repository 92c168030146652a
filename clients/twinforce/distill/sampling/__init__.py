"""Walkers that the teacher labels: a round of sampling, and the choice of labels to train on."""
