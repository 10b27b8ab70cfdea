"""The pose network and where its first weights come from.

layers.py         convolution with TensorFlow's SAME padding, norm and activation in one block
upsample.py       three ways of doubling a map's side, and why they compute the same
mobilenetv2.py    the backbone, any width multiplier
movenet.py        backbone + FPN + one head or four: `MoveNet`
decode.py         MoveNet's own decode of four heads, also as part of an exported graph
tflite_heads.py   which convolutions of a TFLite graph are which head
tflite_walk.py    where each layer of a network is in a TFLite graph: `locate`
tflite_import.py  weights out of MoveNet TFLite files: `locate`, then copy
initial.py        initial weights: ImageNet, a checkpoint, MoveNet
checkpoint.py     what a checkpoint says about itself, read without running code from it
"""
