"""Pseudo-labels: a teacher model writes COCO keypoint labels for a folder of images.

labeller.py  the keypoints of one person, and whether the teacher is sure of them
boxes.py     boxes that are given: a COCO json, or a folder of Pascal VOC XML
partial.py   what is done, kept on disk, so that a killed run goes on
result.py    the COCO file, and the counts
run.py       a folder of images from end to end
"""

from heatpose.label.labeller import LabelSettings
from heatpose.label.run import LabelJob, label_images

__all__ = ["LabelJob", "LabelSettings", "label_images"]
