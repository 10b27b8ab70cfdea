"""The three gates after an export.

A file is what its name says, computes what the network does, and scores.

Every gate gives a sentence for people and numbers for the manifest, whether it lets the file pass
or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heatpose.evaluation.evaluate import EvalReport, PairedDifference, paired_difference
from heatpose.evaluation.parity import FloatParity, OutputUse, PixelDrift
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.settings import CheckLimits
from heatpose.tflite.inspect import Artefact, Output, check_artefact, inspect_tflite
from heatpose.tflite.lint import Finding

if TYPE_CHECKING:
    from torch import nn

    from heatpose.models.movenet import MoveNet


@dataclass(frozen=True)
class CheckResult:
    """One gate's answer about one file.

    Attributes:
        name: "flatbuffer", "parity" or "accuracy".
        artefact: "onnx", "float32", "int8_pc" or "int8_pt".
        passed: Whether the file may be used.
        sentence: Why, with the numbers and their limits.
        numbers: The same for machines.
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
    form: Artefact,
    preprocessing: Preprocessing,
    operators: dict[str, int],
    decoded: bool = False,
) -> CheckResult:
    """Gate 1: form, number types, quantisation and exactly the operators of the network.

    Args:
        path: The file.
        form: What its name says.
        preprocessing: How bytes become the network's input.
        operators: What `expected_operators` says.
        decoded: The file decodes inside, in float; only its convolutions and resizes must be
            integer then.
    """
    inspection = inspect_tflite(path)
    found = check_artefact(inspection, form, preprocessing)
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
    return CheckResult("flatbuffer", form, not messages, sentence, numbers)


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
    network: MoveNet, form: Artefact, *, sigmoid: bool, output: Output
) -> dict[str, int]:
    """The operators of a well converted network, by name.

    Converters have turned depthwise convolutions into grouped ones, left padding or split
    activations off, all without a warning; each changes this count. At full width there are 84.
    """
    # Imported here: torch takes seconds.
    from heatpose.models.topology import Topology

    topology = Topology(network)
    body = Counter(_operator(layer.module) for layer in topology.layers.values())
    stored = int(form != "float32")
    ends = {
        "LOGISTIC": int(sigmoid),
        "QUANTIZE": stored,
        "DEQUANTIZE": len(topology.outputs) * stored * int(output == "float32"),
    }
    return {**body, **{name: count for name, count in ends.items() if count}}


def _operator(module: nn.Module) -> str:
    """The TFLite operator of a layer."""
    from heatpose.models.layers import ConvBlock
    from heatpose.models.upsample import TransposedBlock

    if isinstance(module, TransposedBlock):
        return "TRANSPOSE_CONV"
    if isinstance(module, ConvBlock):
        return "DEPTHWISE_CONV_2D" if module.conv.groups > 1 else "CONV_2D"
    resize = {"bilinear": "RESIZE_BILINEAR", "nearest": "RESIZE_NEAREST_NEIGHBOR"}
    return resize[str(module.mode)] if hasattr(module, "mode") else "ADD"


def float_check(artefact: str, parity: FloatParity, limits: CheckLimits) -> CheckResult:
    """Gate 2 for a float file: it computes what the network computes."""
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
    """Gate 2 for an int8 file: how far its poses moved, and how many of its maps tie or are dead.

    Refuses only a collapse.
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
    form: Artefact, reference: EvalReport, report: EvalReport, limits: CheckLimits
) -> CheckResult:
    """Gate 3 for an int8 file: the OKS it loses against the float network, on the same images.

    The mean drop is held against the limit; the interval says how sure that is.
    """
    limit = {"int8_pc": limits.drop_pc, "int8_pt": limits.drop_pt}[form]
    drop = paired_difference(reference, report)
    numbers = {"scored": True, "limit": limit, **drop_json(drop)}
    sentence = (
        f"OKS {report.oks:.2f} against {reference.oks:.2f}: {drop.mean:.2f} points lost "
        f"[{drop.low:.2f}, {drop.high:.2f}] (limit {limit:g})."
    )
    return CheckResult("accuracy", form, drop.mean <= limit, sentence, numbers)


def drop_json(drop: PairedDifference) -> dict[str, float]:
    """The drop and its 95 % interval, in points."""
    return {"drop": drop.mean, "drop_low": drop.low, "drop_high": drop.high}


def not_scored(form: Artefact) -> CheckResult:
    """Gate 3 where there is no evaluation set: says so, and lets the file pass."""
    return CheckResult(
        "accuracy", form, True, "Not scored: no evaluation set was given.", {"scored": False}
    )
