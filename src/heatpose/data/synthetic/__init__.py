"""Rendered persons with exact labels."""
