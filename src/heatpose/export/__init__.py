"""From a float network to files for a board, and from any file back to what it holds.

graph.py        a TFLite model as plain values: tensors, quantisation, operators
flatbuffer.py   reads a TFLite file into a graph; trusts nothing in it
measures.py     multiply-accumulates, weight bytes and peak activation bytes of a graph
findings.py     rules about a graph: what is wrong or slow in it, operator by operator
inspection.py   all that about a file as JSON, and gate 1: a file is what its name says

Reading needs numpy and the schema package `tflite` only; nothing here imports TensorFlow or an interpreter.
"""
