"""Pseudo-labels: COCO keypoint labels of a folder of images, from a teacher model's predictions."""

from heatpose.label.labeller import LabelSettings
from heatpose.label.run import LabelJob, label_images

__all__ = ["LabelJob", "LabelSettings", "label_images"]
