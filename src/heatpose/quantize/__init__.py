"""From a trained float network to one that survives int8.

fold.py         batch norm into the convolutions, exactly
calibration.py  which training images set the ranges, and the record of them
"""
