"""Settings of an export (conf/quant): plain values.

To add a setting: 1. a field of the dataclass below that it belongs to; 2. its key, with the default
and a comment, in conf/quant/int8.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

# The types are needed at run time: `entries.arguments` compares the configuration with them.
from heatpose.errors import HeatposeError
from heatpose.models.decode import PoseLayout
from heatpose.models.layers import Upsampling
from heatpose.tflite.inspect import Artefact, Output
from heatpose.training.self_distillation import UpsamplingTuning

ARTEFACTS: tuple[Artefact, ...] = ("float32", "int8_pc", "int8_pt")


@dataclass(frozen=True)
class PtqSettings:
    """Steps of post-training quantisation (conf/quant).

    Attributes:
        fold_constant_channels: Moves constant channels into biases, out of the weight scales.
        absorb_bias: Moves the middle of channel ranges into biases, where that is exact.
        equalize: 1 equalises activations, 0 weights; None leaves the channels as they are.
        sweeps: Passes of the equalisation over the network.
        clip_quantile: Share of the values on each side that an activation's range may cut off.
        logit_floor: Heatmap logits below this are stored as this; they are background
            (sigmoid(-8) is 3e-4), and the range above gets finer steps.
        correct_bias: Subtracts the mean rounding error from the biases.
        bias_images: Calibration images of the bias correction.
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
    """Quantisation-aware training after PTQ: self-distillation from the float network (conf/quant).

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        images: Augmented samples of training instances, each used as it is and mirrored.
        rate: Adam's learning rate in quantisation steps: of the weights for weights, of the output
            for biases.
        seed: Of the order.
        scale_rate: Adam's learning rate of the logarithm of every scale, of weights and of
            activations; 0 keeps those of PTQ.
    """

    steps: int = 150
    batch_size: int = 16
    images: int = 2000
    rate: float = 0.004
    seed: int = 0
    scale_rate: float = 0.0


@dataclass(frozen=True)
class AutoChoice:
    """Automatic selection (`quant=auto`): methods by rising cost until one is good enough.

    Attributes:
        drop_pc: OKS points that int8 per channel may lose on the hold-out images against the float
            file.
        drop_pt: The same per tensor.
        holdout: Share of the training images that are held out; they neither calibrate nor
            fine-tune.
        samples: Augmented samples of the instances on them that are scored: whole images and crops.
        least_images: With fewer hold-out images nothing is selected, and PTQ is taken.
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
"""No steps: min-max ranges of the network as it is, as converters use."""

PER_CHANNEL = PtqSettings()
"""For one weight scale per output channel.

Those fit any weights, so the activations get equal ranges.
"""
PER_TENSOR = PtqSettings(equalize=0.5, sweeps=10, clip_quantile=3e-3)
"""For one weight scale per tensor: between equal activation ranges and equal weight ranges."""


@dataclass(frozen=True)
class CheckLimits:
    """Limits of the acceptance checks after an export.

    Attributes:
        logits: Largest difference of a logit between the network and a float file.
        pose_px: Largest distance between their poses, in input pixels.
        drift_p50_px: Median distance between the network's poses and an int8 file's, in input
            pixels; catches a collapse where nothing is scored.
        drop_pc: OKS that "int8_pc" may lose against the float network, in points.
        drop_pt: OKS that "int8_pt" may lose, in points.
    """

    logits: float = 1e-3
    pose_px: float = 0.05
    drift_p50_px: float = 12.0
    drop_pc: float = 0.5
    drop_pt: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which files are exported, how they are quantised and what they must pass (conf/quant).

    Attributes:
        artefacts: TFLite files to make: "float32", "int8_pc" (per channel), "int8_pt" (per tensor).
        output: Output type of the int8 files, "float32" or "int8"; None: that of the target,
            float32 without one.
        sigmoid: Ends the files in a sigmoid; else they give logits. None: as the target needs it,
            True without one.
        pose: Output of the files of a network with four heads, which decode inside: "xy" for (1, K
            * 3) x, y, score; "yx" for Google's (1, 1, K, 3) y, x, score.
        upsample: Exports with this way of upsampling ("bilinear", "nearest", "transposed"),
            whatever the network was trained with; None keeps its own.
        upsampling_tuning: Self-distillation of a network with new upsampling; None for none.
        calibration_images: Number of training images that set the activation ranges.
        calibration_seed: Seed of their random choice.
        ptq: Per int8 artefact: the steps of post-training quantisation.
        qat: Per int8 artefact: quantisation-aware fine-tuning after PTQ; None or not named:
            none.
        auto: Selects the cheapest of min-max ranges, PTQ and QAT that keeps the score; None takes
            all that is configured.
        limits: Limits of the acceptance checks.

    Raises:
        HeatposeError: A value is unknown or out of its range.
    """

    artefacts: Sequence[Artefact] = ARTEFACTS
    output: Output | None = None
    sigmoid: bool | None = None
    pose: PoseLayout = "xy"
    upsample: Upsampling | None = None
    upsampling_tuning: UpsamplingTuning | None = None
    calibration_images: int = 128
    calibration_seed: int = 0
    ptq: Mapping[str, PtqSettings] = field(
        default_factory=lambda: {"int8_pc": PER_CHANNEL, "int8_pt": PER_TENSOR}
    )
    qat: Mapping[str, QatSettings | None] = field(default_factory=dict)
    auto: AutoChoice | None = None
    limits: CheckLimits = field(default_factory=CheckLimits)

    def __post_init__(self) -> None:
        if not isinstance(self.calibration_images, int) or self.calibration_images < 1:
            raise HeatposeError(
                f"quant.calibration_images must be >= 1 (128 by default), got"
                f" {self.calibration_images}."
            )
        if unknown := [artefact for artefact in self.artefacts if artefact not in ARTEFACTS]:
            raise HeatposeError(
                f"quant.artefacts names {unknown}, which are unknown; choose among"
                f" {', '.join(ARTEFACTS)}."
            )
        if lacking := [
            artefact
            for artefact in self.artefacts
            if artefact != "float32" and artefact not in self.ptq
        ]:
            raise HeatposeError(
                f"quant.ptq has no entry for {', '.join(lacking)}; add one of that name."
            )
        for key, kind in (("output", Output), ("pose", PoseLayout), ("upsample", Upsampling)):
            value, known = getattr(self, key), get_args(kind)
            if value not in known and (value is not None or key == "pose"):
                raise HeatposeError(
                    f"quant.{key}={value} is unknown; choose one of {', '.join(known)}."
                )

    @property
    def output_dtype(self) -> Output:
        """Output type of the int8 files."""
        return self.output or "float32"

    @property
    def ends_in_sigmoid(self) -> bool:
        """Heatmaps are probabilities, not logits."""
        return self.sigmoid is not False
