"""From a trained float network to one that survives int8.

fold.py         batch norm into the convolutions, exactly
calibration.py  which training images set the ranges, and the record of them
statistics.py   what the activations look like on them
channels.py     where channels can be scaled and shifted without changing the network
equalize.py     dead channels, centred channels, equal channel ranges
bias.py         mean rounding errors into the biases
scheme.py       the numbers of the int8 scheme
simulate.py     the int8 network in torch
settings.py     which steps are taken
recovery.py     all of it: a float network and calibration images become a plan for an int8 file
"""
