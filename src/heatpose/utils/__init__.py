"""Helpers for files, images, processes, downloads and terminal output, used by all rooms."""
