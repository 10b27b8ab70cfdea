"""From a float network to the files of a bundle: ONNX, TFLite, checks, scores, model card."""
