"""Several runs of one command: names, shared trainings, the Optuna search, the summary."""
