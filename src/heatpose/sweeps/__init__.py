"""Sweeps: several runs of one command, with shared training, Optuna search and summary."""
