"""Settings of post-training recovery: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recovery:
    """Which steps are taken (conf/quant).

    Attributes:
        bury_dead: Takes channels that never change out of the weight scales.
        centre: Moves the middle of channel ranges into biases, where that is exact.
        balance: 1 equalises activations, 0 weights; None leaves the channels as they are.
        sweeps: Of the equalisation.
        tail: Share of the values on each side that an activation's range may cut off.
        logit_floor: Heatmap logits below this are stored as this; they mean "nothing here" (sigmoid(-16) is 1e-7), and steps are better spent above.
        correct_bias: Takes the mean rounding error off the biases.
        bias_images: How many calibration images that uses.
    """

    bury_dead: bool = True
    centre: bool = True
    balance: float | None = 1.0
    sweeps: int = 1
    tail: float = 1e-3
    logit_floor: float | None = -16.0
    correct_bias: bool = True
    bias_images: int = 64


PLAIN = Recovery(bury_dead=False, centre=False, balance=None, tail=0.0, logit_floor=None, correct_bias=False)
"""No recovery: min/max ranges of the network as it is, what converters do."""

PER_CHANNEL = Recovery()
"""For one weight scale per output channel: those fit any weights, so the activations get equal ranges."""
PER_TENSOR = Recovery(balance=0.5, sweeps=10, tail=3e-3)
"""For one weight scale per tensor: between equal activation ranges and equal weight ranges."""
