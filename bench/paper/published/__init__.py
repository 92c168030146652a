"""The experiments of the paper with published models, for the page docs/published.md."""
