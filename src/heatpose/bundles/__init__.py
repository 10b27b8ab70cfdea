"""Bundles on disk: the manifest, what a file states about itself, verification."""
