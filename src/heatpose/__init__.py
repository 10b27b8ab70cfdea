"""Heatpose: one-person pose networks, fine-tuned and turned into proven int8 TFLite files."""
