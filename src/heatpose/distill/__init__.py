"""Learning from a stronger pose model, the teacher, beside the labels.

settings.py   what conf/distill says
teacher.py    a model file asked about people, each cropped out of the picture
cache.py      its answers for all training people, made once and mapped from disk
loss.py       the term that they add to the loss
live.py       no labels: a network in another form learns to say what it said
settle.py     that for a network whose upsampling was changed

The training step knows one object, `loss.Distillation`, and asks it by the samples' indices and image -> input matrices.
"""
