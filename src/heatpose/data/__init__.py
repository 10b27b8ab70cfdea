"""Labels and images: COCO json -> `Person` -> augmented network input.

formats/       exports of labelling tools, read as COCO content
sample.py      what a labelled person is; their image (decoded by `heatpose.image_files`)
orientation.py which way round the images of a label file are read
coco.py        COCO keypoint json -> people, with an audit of what was dropped and why
layout.py      where a data set keeps its labels and images; locate.py finds them in any folder
sources.py     COCO folders and rendered people as training and evaluation people
augment.py     one affine per sample, then photometric changes per batch
datamodule.py  loaders for training and model selection
report.py      the audit behind `heatpose data`; image_check.py, contact.py serve it
synthetic.py   rendered people with exact labels; figure.py, costume.py, render.py, scenery.py draw them
download.py    the official COCO archives; transfer.py fetches, archive.py unpacks
"""
