"""A training run: the Lightning module, its callbacks, devices, resuming, its result."""
