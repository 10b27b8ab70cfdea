"""Labels and images: COCO json -> `Sample` -> augmented network input.

sample.py      what a labelled person is
coco.py        COCO keypoint json -> samples, with an audit of what was dropped and why
synthetic.py   rendered people with exact labels, in COCO format
download.py    the official COCO archives
augment.py     one affine per sample, then photometric changes per batch
datamodule.py  loaders for training, model selection and calibration
"""
