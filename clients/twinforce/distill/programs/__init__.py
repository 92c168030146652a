"""Programs that a distillation runs: services and trainings."""
