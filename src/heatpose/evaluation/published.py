"""What has been published for MoveNet-style networks on STM32.

Every row with its source, and the question which rows a network answers to.

`published.csv` holds the rows as they were published: mean OKS by the single-person protocol on 921
images of COCO val2017 (`protocol.py`), and what ST measured with that file on its boards. Two
sources:

- "seed": ST's pose estimation tables made with ST Edge AI Core 2.0.0 and X-LINUX-AI 5.0.0;
- "zoo-4.0": those of ST's model zoo 4.0, made with ST Edge AI Core 3.0.0 and X-LINUX-AI 6.1.0.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Literal

from heatpose.pose.skeleton import BUILT_IN, Skeleton

Granularity = Literal["int8_pc", "int8_pt"]
OutputForm = Literal["heatmaps", "keypoints"]
THUNDER = "movenet_thunder"


@dataclass(frozen=True)
class Published:
    """One published row; None where the source says nothing.

    Attributes:
        source: "seed" or "zoo-4.0".
        variant: The network, under its published name.
        keypoints: K.
        training_data: What it was trained on: "google" (as Google published it), "public", "coco"
            or "st-custom".
        resolution: Side of the input in pixels.
        quantization: "int8_pc" (per channel) or "int8_pt" (per tensor).
        output: "heatmaps" (one per keypoint), or "keypoints" (decoded in the graph).
        oks_percent: Mean OKS in percent over the 921 images; its standard error is about 1.1
            points.
        n6_ram_kib: STM32N6, internal RAM.
        n6_external_ram_kib: STM32N6, external RAM.
        n6_flash_kib: STM32N6, flash for weights.
        n6_ms: STM32N6, time of one inference.
        n6_stedgeai_core: Version of ST Edge AI Core behind these four.
        mp257_ms: STM32MP257, time of one inference.
        mp257_npu_percent: Share of that time on the NPU.
        mp257_gpu_percent: Share on the GPU.
        mp257_board: Which STM32MP257 board.
        mp157_ms: STM32MP157, time of one inference.
        mp135_ms: STM32MP135, time of one inference.
        x_linux_ai: Version of X-LINUX-AI on the MP boards.
    """

    source: str
    variant: str
    keypoints: int
    training_data: str
    resolution: int
    quantization: Granularity
    output: OutputForm
    oks_percent: float
    n6_ram_kib: float | None
    n6_external_ram_kib: float | None
    n6_flash_kib: float | None
    n6_ms: float | None
    n6_stedgeai_core: str | None
    mp257_ms: float | None
    mp257_npu_percent: float | None
    mp257_gpu_percent: float | None
    mp257_board: str | None
    mp157_ms: float | None
    mp135_ms: float | None
    x_linux_ai: str | None

    @property
    def width(self) -> float:
        """Width multiplier of the backbone.

        1.75 for Thunder, 1.0 for the others ("a100" in a name says the same).
        """
        return 1.75 if self.variant == THUNDER else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names above, without what the source does not say."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@cache
def rows() -> tuple[Published, ...]:
    """Every published row, in the order of the file."""
    text = (
        resources.files("heatpose.evaluation").joinpath("published.csv").read_text(encoding="utf-8")
    )
    return tuple(_row(entry) for entry in csv.DictReader(text.splitlines()))


def _row(entry: dict[str, str]) -> Published:
    kinds = {field.name: str(field.type) for field in fields(Published)}
    values: dict[str, Any] = {name: _value(text, kinds[name]) for name, text in entry.items()}
    return Published(**values)


def _value(text: str, kind: str) -> str | int | float | None:
    if not text and kind.endswith("| None"):
        return None
    if kind == "int":
        return int(text)
    return float(text) if kind.startswith("float") else text


def published(
    *,
    variant: str | None = None,
    keypoints: int | None = None,
    resolution: int | None = None,
    quantization: Granularity | None = None,
    output: OutputForm | None = None,
    training_data: str | None = None,
    source: str | None = None,
    width: float | None = None,
) -> tuple[Published, ...]:
    """The rows with the given properties; what is not given may be anything."""
    wanted = {
        "variant": variant,
        "keypoints": keypoints,
        "resolution": resolution,
        "quantization": quantization,
        "output": output,
        "training_data": training_data,
        "source": source,
        "width": width,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    return tuple(
        row for row in rows() if all(getattr(row, name) == value for name, value in given.items())
    )


def counterparts(
    skeleton: Skeleton, resolution: int, *, width: float = 1.0, output: OutputForm = "heatmaps"
) -> tuple[Published, ...]:
    """The published rows that a network of this kind takes the place of.

    Same keypoints, input, output form and width, both granularities.

    Several networks may have been published for one kind; each row names its variant and what it
    was trained on.

    Args:
        skeleton: What the network's channels are. Own keypoints have no row, also where their
            number is 13 or 17.
        resolution: Side of the input.
        width: Width multiplier of the backbone.
        output: What the files give.
    """
    if not has_published_keypoints(skeleton):
        return ()
    return published(keypoints=len(skeleton), resolution=resolution, output=output, width=width)


def has_published_keypoints(skeleton: Skeleton) -> bool:
    """True for COCO's 17 and ST's 13 keypoints: names, order, sigmas and merge rules.

    What else a skeleton is called or how it is drawn does not matter.
    """
    return any(
        all(
            getattr(skeleton, name) == getattr(known, name)
            for name in ("keypoints", "sigmas", "merge")
        )
        for known in BUILT_IN
    )
