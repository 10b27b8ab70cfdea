"""Learning from a stronger pose model, the teacher, beside the labels.

The training step knows one object, `loss.Distillation`, and asks it by the samples' indices and
image -> input matrices.
"""
