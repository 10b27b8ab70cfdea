"""Published results of MoveNet-style networks on STM32, and their comparison with a network.

`published.csv` has the published rows: mean OKS over the 921 images of COCO val2017 that have
exactly one person annotation and a labelled keypoint (whole image stretched with nearest sampling,
argmax, normalised coordinates), and ST's measurements of that file on its boards. Sources:

- "seed": ST's pose estimation tables for ST Edge AI Core 2.0.0 and X-LINUX-AI 5.0.0;
- "zoo-4.0": ST's model zoo 4.0, for ST Edge AI Core 3.0.0 and X-LINUX-AI 6.1.0.

A difference is given only for an evaluation of the same images by the same protocol.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, Protocol

from heatpose.pose.skeleton import BUILT_IN, Skeleton

if TYPE_CHECKING:
    from rich.table import Table


Granularity = Literal["int8_pc", "int8_pt"]
OutputType = Literal["heatmaps", "keypoints"]
THUNDER = "movenet_thunder"


@dataclass(frozen=True)
class Published:
    """A published row; None for values not published.

    Attributes:
        source: "seed" or "zoo-4.0".
        variant: Published name of the network.
        keypoints: K, number of keypoints.
        training_data: "google" (as published by Google), "public", "coco" or "st-custom".
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
    output: OutputType
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
        """Width multiplier of the backbone: 1.75 for Thunder, 1.0 for the others ("a100")."""
        return 1.75 if self.variant == THUNDER else 1.0

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values, without unpublished ones."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@cache
def rows() -> tuple[Published, ...]:
    """All published rows, in the order of the file."""
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
    output: OutputType | None = None,
    training_data: str | None = None,
    source: str | None = None,
    width: float | None = None,
) -> tuple[Published, ...]:
    """Published rows with the given properties; None matches any."""
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
    skeleton: Skeleton, resolution: int, *, width: float = 1.0, output: OutputType = "heatmaps"
) -> tuple[Published, ...]:
    """Published rows with the same keypoints, input, output and width, in both granularities.

    Args:
        skeleton: Keypoints of the network; custom ones have no row, even if they are 13 or 17.
        resolution: Side of the input in pixels.
        width: Width multiplier of the backbone.
        output: "heatmaps" or "keypoints".
    """
    if not has_published_keypoints(skeleton):
        return ()
    return published(keypoints=len(skeleton), resolution=resolution, output=output, width=width)


def has_published_keypoints(skeleton: Skeleton) -> bool:
    """Whether names, order, sigmas and merge rules are those of COCO's 17 or ST's 13 keypoints."""
    return any(
        all(
            getattr(skeleton, name) == getattr(known, name)
            for name in ("keypoints", "sigmas", "merge")
        )
        for known in BUILT_IN
    )


IMAGES = 921
RULES = {"sampling": "nearest", "decode": "argmax", "coordinates": "normalised"}
"""Entries of `EvalReport.protocol` in the published protocol."""
Images = Literal["all", "part", "other"]


class Measured(Protocol):
    """Attributes of an evaluation used for a comparison; implemented by `EvalReport`."""

    @property
    def oks(self) -> float:
        """Mean OKS in percent."""

    @property
    def oks_standard_error(self) -> float:
        """Standard error of `oks` in percentage points."""

    @property
    def image_ids(self) -> Sequence[int]:
        """COCO image ids."""

    @property
    def protocol(self) -> Mapping[str, str]:
        """Entries sampling, decode and coordinates."""


@dataclass(frozen=True)
class Pair:
    """A published row and this network's file of the same number format.

    Attributes:
        row: Published row.
        oks: Mean OKS of this file in percent; None if not scored.
        standard_error: Standard error of `oks` in percentage points.
        difference: This minus published, in percentage points; None unless images and protocol are
            the same.
    """

    row: Published
    oks: float | None = None
    standard_error: float | None = None
    difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return {
            "artefact": self.row.quantization,
            "published": self.row.to_json(),
            "oks": self.oks,
            "oks_standard_error": self.standard_error,
            "difference": self.difference,
        }


@dataclass(frozen=True)
class Comparison:
    """Published rows for a kind of network, with the scores of this one.

    Attributes:
        pairs: In the order of the published rows; empty if there are none.
        comparable: Whether images and protocol are the published ones.
        note: A sentence on comparability, to be shown with the numbers.
    """

    pairs: tuple[Pair, ...]
    comparable: bool
    note: str

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return {
            "published_images": IMAGES,
            "comparable": self.comparable,
            "note": self.note,
            "rows": [pair.to_json() for pair in self.pairs],
        }


def compare(
    skeleton: Skeleton,
    resolution: int,
    measured: Mapping[str, Measured | None],
    *,
    width: float = 1.0,
    output: OutputType = "heatmaps",
) -> Comparison:
    """Compares the published rows with the scored files of the same number format.

    Args:
        skeleton: Keypoints of the network.
        resolution: Side of the input in pixels.
        measured: Artefact -> evaluation, or None if not scored. Only "int8_pc" and "int8_pt" have
            published rows.
        width: Width multiplier of the backbone.
        output: "heatmaps" or "keypoints".
    """
    rows = [
        row
        for row in counterparts(skeleton, resolution, width=width, output=output)
        if row.quantization in measured
    ]
    if not rows:
        return Comparison((), False, _nothing(skeleton, resolution, width, output))
    scored = [report for row in rows if (report := measured[row.quantization]) is not None]
    comparable = bool(scored) and all(
        by_the_rules(report.protocol) and image_set(report.image_ids) == "all" for report in scored
    )
    return Comparison(
        tuple(_pair(row, measured[row.quantization], comparable) for row in rows),
        comparable,
        _note(scored),
    )


def _pair(row: Published, report: Measured | None, comparable: bool) -> Pair:
    if report is None:
        return Pair(row)
    return Pair(
        row,
        report.oks,
        report.oks_standard_error,
        report.oks - row.oks_percent if comparable else None,
    )


def image_set(image_ids: Iterable[int]) -> Images:
    """Classifies the images of an evaluation; 470 of the 921 published ids are known.

    Returns:
        "all" for 921 images that include all known ids, "part" for known ids only, else "other".
    """
    ids = set(image_ids)
    if len(ids) == IMAGES and known_images() <= ids:
        return "all"
    return "part" if ids and ids <= known_images() else "other"


@cache
def known_images() -> frozenset[int]:
    """Known COCO ids of the published images."""
    text = (
        resources.files("heatpose.evaluation")
        .joinpath("published_images.txt")
        .read_text(encoding="utf-8")
    )
    return frozenset(
        int(word) for line in text.splitlines() if not line.startswith("#") for word in line.split()
    )


def by_the_rules(protocol: Mapping[str, str]) -> bool:
    """Whether an evaluation followed the published protocol."""
    return all(protocol.get(name) == value for name, value in RULES.items())


def _note(scored: Sequence[Measured]) -> str:
    published = f"Published: mean OKS over {IMAGES} images of COCO val2017 with one person"
    if not scored:
        return f"{published}. This: not scored."
    count, where = len(set(scored[0].image_ids)), image_set(scored[0].image_ids)
    if not all(by_the_rules(report.protocol) for report in scored):
        used = ", ".join(f"{name} {scored[0].protocol.get(name)}" for name in RULES)
        return f"{published}, by another protocol than this ({used}): not comparable."
    if where == "all":
        return (
            f"{published}. This: the same images and protocol; the published numbers also have a"
            " standard error of about 1.1 points."
        )
    which = (
        f"{count} of those images, which may be harder or easier than the rest"
        if where == "part"
        else f"{count} other images"
    )
    return (
        f"{published}. This: the same protocol on {which}: not directly comparable. `heatpose"
        " compare` scores a published file and this one on the same images."
    )


def _nothing(skeleton: Skeleton, resolution: int, width: float, output: str) -> str:
    if not has_published_keypoints(skeleton):
        return (
            f"Nothing was published for the keypoints of '{skeleton.name}'. OKS depends on the"
            " scored keypoints: it is not comparable with that of 17 or 13 keypoints."
        )
    return (
        f"Nothing was published for {len(skeleton)} keypoints at {resolution}, width {width:g},"
        f" {output}, in these number formats."
    )


HEADINGS = ("file", "published OKS %", "this OKS %", "published as", "trained on", "source")
DIFFERENCE = "difference"
BOARD_HEADINGS = (
    "published as",
    "trained on",
    "source",
    "file",
    "N6 RAM KiB",
    "N6 flash KiB",
    "N6 ms",
    "MP257 ms",
    "MP157 ms",
    "MP135 ms",
)


def score_table(comparison: Comparison) -> list[tuple[str, ...]]:
    """Headings, then a row per pair; with a column of differences if comparable."""
    lines: list[tuple[str, ...]] = [HEADINGS, *(_score_cells(pair) for pair in comparison.pairs)]
    if not comparison.comparable:
        return lines
    differences = [
        DIFFERENCE,
        *(
            "-" if pair.difference is None else f"{pair.difference:+.2f}"
            for pair in comparison.pairs
        ),
    ]
    return [
        (*line[:3], difference, *line[3:])
        for line, difference in zip(lines, differences, strict=True)
    ]


def _score_cells(pair: Pair) -> tuple[str, ...]:
    row = pair.row
    this = "not scored" if pair.oks is None else f"{pair.oks:.2f} ± {pair.standard_error:.2f}"
    return (
        row.quantization,
        f"{row.oks_percent:.2f}",
        this,
        row.variant,
        row.training_data,
        row.source,
    )


def board_cells(row: Published) -> tuple[str, ...]:
    """Cells of a published row's board measurements, in the order of `BOARD_HEADINGS`."""
    figures = (
        row.n6_ram_kib,
        row.n6_flash_kib,
        row.n6_ms,
        row.mp257_ms,
        row.mp157_ms,
        row.mp135_ms,
    )
    return (
        row.variant,
        row.training_data,
        row.source,
        row.quantization,
        *("-" if value is None else f"{value:g}" for value in figures),
    )


def markdown(comparison: Comparison) -> str:
    """Markdown section of the model card."""
    lines = ["## Published for this kind of file", ""]
    if comparison.pairs:
        lines += [*_markdown_table(score_table(comparison)), ""]
    lines += [comparison.note]
    if comparison.pairs:
        boards = _markdown_table(
            [BOARD_HEADINGS, *(board_cells(pair.row) for pair in comparison.pairs)]
        )
        lines += [
            "",
            "ST's measurements of the published files on its boards, not of the files here:",
            "",
            *boards,
        ]
    return "\n".join(lines)


def _markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    headings, *rows = lines
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def terminal_table(comparison: Comparison) -> Table | None:
    """Terminal table; None if nothing was published. `note` is to be printed below it."""
    # Imported here: not needed for the model card.
    from rich.table import Table

    if not comparison.pairs:
        return None
    table = Table(title="Published for this kind of file", title_justify="left")
    headings, *lines = score_table(comparison)
    for heading in headings:
        figures = "OKS" in heading or heading == DIFFERENCE
        table.add_column(
            heading, justify="right" if figures else "left", no_wrap=figures, overflow="fold"
        )
    for line in lines:
        table.add_row(*line)
    return table
