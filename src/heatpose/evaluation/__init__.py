"""Scores: the published single-person protocol, COCO AP, parity of files, published rows."""
