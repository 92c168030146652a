"""The recipe: direct forces first, conservative forces after, one model that gives both."""
