"""Pseudo-labels: a teacher model writes COCO keypoint labels for a folder of images."""

from heatpose.label.labeller import LabelSettings
from heatpose.label.run import LabelJob, label_images

__all__ = ["LabelJob", "LabelSettings", "label_images"]
