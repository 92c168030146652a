"""Training of hybrid models by a recipe: direct forces first, then conservative forces."""
