"""Distillation from a stronger pose model, the teacher, in addition to the labels.

The training step uses `loss.Distillation`, which looks up the teacher's output by the indices and
image -> input matrices of the samples.
"""
