"""Acceptance checks after an export: format, parity with the network, accuracy.

Each check gives a sentence and, for the manifest, its numbers, whether the file passes or not.

To add one: 1. a function here that returns a `CheckResult`; 2. its call in `validate.Validator`;
3. its limit in `quantize.settings.CheckLimits` and conf/quant/int8.yaml.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.evaluation.evaluate import EvalReport, PairedDifference, paired_difference
from heatpose.evaluation.parity import FloatParity, OutputUse, PixelDrift
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.settings import CheckLimits
from heatpose.tflite.inspect import Artefact, Output, check_artefact, inspect_tflite
from heatpose.tflite.lint import Finding

if TYPE_CHECKING:
    from torch import nn

    from heatpose.models.decode import PoseLayout
    from heatpose.models.movenet import MoveNet


@dataclass(frozen=True)
class CheckResult:
    """Result of one check of one file.

    Attributes:
        name: "flatbuffer", "parity" or "accuracy".
        artefact: "onnx", "float32", "int8_pc" or "int8_pt".
        passed: Whether the file may be used.
        sentence: The reason, with the numbers and their limits.
        numbers: The same as plain values.
    """

    name: str
    artefact: str
    passed: bool
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def flatbuffer_check(
    path: Path,
    artefact: Artefact,
    preprocessing: Preprocessing,
    operators: dict[str, int],
    decoded: bool = False,
) -> CheckResult:
    """Check 1: file format, number types, quantisation and exactly the operators of the network.

    Args:
        path: The file.
        artefact: Artefact that its name states.
        preprocessing: From bytes to the network's input.
        operators: Result of `expected_operators`.
        decoded: The file decodes inside, in float; only its convolutions and resizes must be
            integer then.
    """
    inspection = inspect_tflite(path)
    found = check_artefact(inspection, artefact, preprocessing)
    messages = [finding.message for finding in found if not (decoded and _is_decode(finding))]
    if inspection.operators != operators:
        messages.insert(0, f"The operators are {inspection.operators} instead of {operators}.")
    count = sum(inspection.operators.values())
    sentence = (
        " ".join(messages)
        or f"{count} operators, all as expected, {inspection.granularity} weights."
    )
    numbers = {
        "operators": inspection.operators,
        "granularity": inspection.granularity,
        "violations": messages,
    }
    return CheckResult("flatbuffer", artefact, not messages, sentence, numbers)


def _is_decode(finding: Finding) -> bool:
    body = (
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
    )
    return finding.rule == "float_operator" and not str(finding.operator).startswith(body)


def expected_operators(
    network: MoveNet, artefact: Artefact, *, sigmoid: bool, output: Output
) -> dict[str, int]:
    """Number of each operator in a correctly converted file, by name; 84 in all at full width.

    Known conversion faults without a warning change it: grouped instead of depthwise convolutions,
    separate PAD operators, activations that are not fused.
    """
    # Imported here: torch takes seconds.
    from heatpose.models.topology import Topology

    topology = Topology(network)
    body = Counter(_operator(layer.module) for layer in topology.layers.values())
    stored = int(artefact != "float32")
    ends = {
        "LOGISTIC": int(sigmoid),
        "QUANTIZE": stored,
        "DEQUANTIZE": len(topology.outputs) * stored * int(output == "float32"),
    }
    return {**body, **{name: count for name, count in ends.items() if count}}


def _operator(module: nn.Module) -> str:
    """The TFLite operator of a layer."""
    from heatpose.models.layers import ConvBlock, TransposedBlock

    if isinstance(module, TransposedBlock):
        return "TRANSPOSE_CONV"
    if isinstance(module, ConvBlock):
        return "DEPTHWISE_CONV_2D" if module.conv.groups > 1 else "CONV_2D"
    resize = {"bilinear": "RESIZE_BILINEAR", "nearest": "RESIZE_NEAREST_NEIGHBOR"}
    return resize[str(module.mode)] if hasattr(module, "mode") else "ADD"


def float_check(artefact: str, parity: FloatParity, limits: CheckLimits) -> CheckResult:
    """Check 2 of a float file: its outputs equal the network's."""
    passed = parity.logits <= limits.logits and parity.pose_px <= limits.pose_px
    sentence = (
        f"Logits differ by at most {parity.logits:.1e} (limit {limits.logits:g}), poses by"
        f" {parity.pose_px:.4f} px (limit {limits.pose_px:g}); {parity.tied} of {parity.maps} maps"
        " are tied."
    )
    return CheckResult("parity", artefact, passed, sentence, parity.to_json())


def drift_check(
    artefact: str,
    drift: PixelDrift,
    limits: CheckLimits,
    use: Mapping[str, OutputUse] | None = None,
) -> CheckResult:
    """Check 2 of an int8 file: distance of its poses, and share of its maps that tie or are dead.

    Fails only where the file has collapsed.
    """
    passed = drift.p50 <= limits.drift_p50_px
    sentence = (
        f"Keypoints moved by {drift.p50:.2f} / {drift.p95:.2f} / {drift.p99:.2f} px (p50 / p95 /"
        f" p99; limit of the p50 {limits.drift_p50_px:g}); {drift.moved:.1f} % have another highest"
        " cell."
    )
    if use:
        tied, dead = (
            float(np.mean([getattr(entry, key) for entry in use.values()]))
            for key in ("tied", "dead")
        )
        sentence += f" {tied:.1f} % of the maps tie in their highest cell, {dead:.1f} % are dead."
    return CheckResult(
        "parity",
        artefact,
        passed,
        sentence,
        {
            **drift.to_json(),
            "outputs": {name: asdict(entry) for name, entry in (use or {}).items()},
        },
    )


def accuracy_check(
    artefact: Artefact, reference: EvalReport, report: EvalReport, limits: CheckLimits
) -> CheckResult:
    """Check 3 of an int8 file: the OKS it loses against the float network, on the same images.

    The mean drop is compared with the limit; its 95 % interval is reported beside it.
    """
    limit = {"int8_pc": limits.drop_pc, "int8_pt": limits.drop_pt}[artefact]
    drop = paired_difference(reference, report)
    numbers = {"scored": True, "limit": limit, **drop_json(drop)}
    sentence = (
        f"OKS {report.oks:.2f} against {reference.oks:.2f}: {drop.mean:.2f} points lost "
        f"[{drop.low:.2f}, {drop.high:.2f}] (limit {limit:g})."
    )
    return CheckResult("accuracy", artefact, drop.mean <= limit, sentence, numbers)


def drop_json(drop: PairedDifference) -> dict[str, float]:
    """The drop and its 95 % interval, in points."""
    return {"drop": drop.mean, "drop_low": drop.low, "drop_high": drop.high}


def not_scored(artefact: Artefact) -> CheckResult:
    """Check 3 without an evaluation set: the file passes, and the sentence states why."""
    return CheckResult(
        "accuracy", artefact, True, "Not scored: no evaluation set was given.", {"scored": False}
    )


DECODE_OPERATORS = {
    "ADD": 8, "ARG_MAX": 2, "CAST": 3, "CONCATENATION": 1,
    "DIV": 1, "GATHER": 8, "LESS": 3, "LOGISTIC": 2, "MUL": 8,
    "RESHAPE": 9, "SQRT": 1, "STRIDED_SLICE": 2, "SUB": 2,
}  # fmt: skip
"""Operators of a converted `models.decode`, all of them TFLite builtins.

CAST and LESS guard its GATHERs against negative indices.
"""
# the index of a single keypoint needs no arithmetic
_NOT_FOR_ONE = {"ADD": 2, "CAST": 1, "LESS": 1, "MUL": 2, "RESHAPE": 1}


@dataclass(frozen=True)
class DecodedReference:
    """Poses of the network in memory.

    Attributes:
        poses: f32[N, K, 3] x and y as fractions of the input, score.
        margins: f32[N, K] of `models.decode.decode_margins`.
    """

    poses: NDArray[np.float32]
    margins: NDArray[np.float32]


@dataclass(frozen=True)
class PoseParity:
    """Differences between a float file that decodes inside and the network.

    Attributes:
        score: Largest difference of a score, over keypoints that are not tied.
        pose_px: Largest distance of a keypoint, in pixels, over the same.
        tied: Keypoints left out: two cells are so near to each other in a search that the float
            differences allowed may choose either.
        keypoints: N * K.
    """

    score: float
    pose_px: float
    tied: int
    keypoints: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def with_decode(
    operators: Mapping[str, int], keypoints: int, pose: PoseLayout = "xy"
) -> dict[str, int]:
    """The operators of a float file by name, decode included.

    Args:
        operators: Of the network alone, without a sigmoid at its end.
        keypoints: K.
        pose: Layout of the output.
    """
    decode = Counter(DECODE_OPERATORS)
    if pose == "yx":
        decode["GATHER"] += 1  # turns x, y into y, x
    if keypoints == 1:
        decode -= Counter(_NOT_FOR_ONE)
    return dict(Counter(operators) + decode)


def decoded_reference(
    network: MoveNet, preprocessing: Preprocessing, images: NDArray[np.uint8]
) -> DecodedReference:
    """Runs a network with four heads over u8[N, S, S, 3], a few images at a time."""
    import torch

    from heatpose.models.decode import decode_maps, decode_margins

    poses, margins = [], []
    for start in range(0, len(images), 16):
        with torch.inference_mode():
            maps = network(
                preprocessing.normalise(
                    torch.tensor(images[start : start + 16]).permute(0, 3, 1, 2)
                )
            )
            poses.append(decode_maps(maps).numpy())
            margins.append(decode_margins(maps).numpy())
    return DecodedReference(np.concatenate(poses), np.concatenate(margins))


def pose_parity(
    reference: DecodedReference, found: NDArray[np.float32], *, size: int, tie: float
) -> PoseParity:
    """Compares a file's poses with the network's.

    Args:
        reference: The network's.
        found: f32[N, K, 3] the file's, x and y first.
        size: Side S of the input.
        tie: How far two logits or two lengths in cells of the same place may be apart. That changes
            a cell's share of a search by less than twice as much, and a lead by less than four
            times.
    """
    clear = reference.margins > 4 * tie
    moved = (reference.poses - found)[clear]
    return PoseParity(
        score=float(np.abs(moved[:, 2]).max(initial=0)),
        pose_px=size * float(np.hypot(moved[:, 0], moved[:, 1]).max(initial=0)),
        tied=int((~clear).sum()),
        keypoints=clear.size,
    )


def pose_check(artefact: str, parity: PoseParity, limits: CheckLimits) -> CheckResult:
    """Check 2 of a float file that decodes inside: its poses equal the network's."""
    all_tied = parity.tied == parity.keypoints
    passed = parity.score <= limits.logits and parity.pose_px <= limits.pose_px and not all_tied
    sentence = (
        f"Scores differ by at most {parity.score:.1e} (limit {limits.logits:g}), poses by"
        f" {parity.pose_px:.4f} px (limit {limits.pose_px:g}); {parity.tied} of"
        f" {parity.keypoints} keypoints are tied."
    )
    return CheckResult("parity", artefact, passed, sentence, parity.to_json())
