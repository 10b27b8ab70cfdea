"""Metrics: published single-person protocol, COCO AP, parity of exported files, published rows."""
