"""Keypoint sets, coordinates, heatmap encoding and decoding, preprocessing and drawing."""
