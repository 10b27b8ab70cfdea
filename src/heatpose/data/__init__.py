"""Labels and images: COCO json -> `Person` -> augmented network input."""
