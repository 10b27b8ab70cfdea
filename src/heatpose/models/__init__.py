"""The pose network and where its first weights come from.

layers.py         convolution with TensorFlow's SAME padding, norm and activation in one block
mobilenetv2.py    the backbone, any width multiplier
movenet.py        backbone + FPN + heatmap head: `MoveNet`
tflite_import.py  weights out of Google's MoveNet TFLite files
initial.py        initial weights: ImageNet, a checkpoint, MoveNet
checkpoint.py     what a checkpoint says about itself, read without running code from it
"""
