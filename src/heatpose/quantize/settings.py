"""Settings of post-training quantisation: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PtqSettings:
    """Which steps are taken (conf/quant).

    Attributes:
        fold_constant_channels: Takes channels that never change out of the weight scales.
        absorb_bias: Moves the middle of channel ranges into biases, where that is exact.
        equalize: 1 equalises activations, 0 weights; None leaves the channels as they are.
        sweeps: Of the equalisation.
        clip_quantile: Share of the values on each side that an activation's range may cut off.
        logit_floor: Heatmap logits below this are stored as this; they mean "nothing here"
            (sigmoid(-8) is 3e-4), and steps are better spent above.
        correct_bias: Takes the mean rounding error off the biases.
        bias_images: How many calibration images that uses.
    """

    fold_constant_channels: bool = True
    absorb_bias: bool = True
    equalize: float | None = 1.0
    sweeps: int = 1
    clip_quantile: float = 1e-3
    logit_floor: float | None = -8.0
    correct_bias: bool = True
    bias_images: int = 64


@dataclass(frozen=True)
class QatSettings:
    """Quantisation-aware fine-tuning after recovery (conf/quant).

    The int8 network learns what the float network says.

    Attributes:
        steps: Of all layers.
        batch_size: Images a step.
        images: Training images: views of training people, each as it is and mirrored.
        rate: Of Adam, in quantisation steps: of the weights for weights, of the output for biases.
        seed: Of the order.
    """

    steps: int = 150
    batch_size: int = 16
    images: int = 2000
    rate: float = 0.004
    seed: int = 0


@dataclass(frozen=True)
class AutoChoice:
    """How `quant=auto` chooses: ways from the cheapest to the dearest.

    Until one loses little enough on training images held out.

    Attributes:
        drop_pc: OKS points that int8 per channel may lose there against the float file.
        drop_pt: The same per tensor.
        holdout: Share of the training images that are held out; they neither calibrate nor tune.
        samples: Augmented samples of these images that are scored: whole images and crops.
        least_images: With fewer nothing is chosen, and post-training quantisation is taken.
    """

    drop_pc: float = 0.3
    drop_pt: float = 0.5
    holdout: float = 0.3
    samples: int = 2000
    least_images: int = 20


PLAIN = PtqSettings(
    fold_constant_channels=False,
    absorb_bias=False,
    equalize=None,
    clip_quantile=0.0,
    logit_floor=None,
    correct_bias=False,
)
"""No recovery: min/max ranges of the network as it is, what converters do."""

PER_CHANNEL = PtqSettings()
"""For one weight scale per output channel.

Those fit any weights, so the activations get equal ranges.
"""
PER_TENSOR = PtqSettings(equalize=0.5, sweeps=10, clip_quantile=3e-3)
"""For one weight scale per tensor: between equal activation ranges and equal weight ranges."""
