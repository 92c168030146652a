"""Results of a distillation: measurements, the recommendation, the report and its page."""
