"""Files, processes, downloads and image files: what every room uses and what uses none of them."""
