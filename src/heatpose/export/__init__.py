"""From a float network to files for a board, and from any file back to what it holds.

Writing: `onnx` (torch to ONNX), `tflite` (ONNX to float and int8 TFLite), `bundle` (all of one model in a
folder), `card` (its README), `c_header` (its constants for firmware).

Reading, with numpy and the schema package `tflite` only: `graph` (a TFLite model as values), `flatbuffer`
(reads a file into a graph and trusts nothing in it), `measures` (multiply-accumulates and bytes), `findings`
(rules: what is wrong or slow, operator by operator), `inspection` (all that about a file as JSON, and gate 1:
a file is what its name says).
"""
