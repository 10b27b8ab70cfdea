"""What a bundle's files take on boards.

As a build or a board said (`<target>/result.json`), else as estimated; and what was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.deploy.estimate import Interval, estimate
from heatpose.deploy.package import ESTIMATE, RESULT
from heatpose.deploy.targets import Target, built_in, load_target
from heatpose.deploy.tool_result import read_result
from heatpose.errors import HeatposeError
from heatpose.evaluation.published import Published, has_published_keypoints, published
from heatpose.report.bundle import Artefact, Bundle
from heatpose.report.content import UNREADABLE
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import sha256

QUANTITIES = {"ms": "ms", "ram_kib": "RAM KiB", "flash_kib": "flash KiB"}
PUBLISHED = {
    ("stm32n6", "ms"): "n6_ms",
    ("stm32n6", "ram_kib"): "n6_ram_kib",
    ("stm32n6", "flash_kib"): "n6_flash_kib",
    ("stm32mp2", "ms"): "mp257_ms",
    ("stm32mp1", "ms"): "mp157_ms",
}
"""Target and quantity -> field of a published row."""
_RESULTS = {"ms": "ms", "ram_kib": "ram_internal_kib", "flash_kib": "flash_kib"}


@dataclass(frozen=True)
class Taken:
    """One number.

    Attributes:
        interval: The number, and between what it is expected; low and high are equal to it where it
            was built or measured.
        source: "estimated", "built" or "measured".
        message: Where it comes from, a sentence.
    """

    interval: Interval
    source: str
    message: str

    def __str__(self) -> str:
        digits = 1 if self.interval.value < 100 else 0
        return f"{'~' if self.source == 'estimated' else ''}{self.interval.value:,.{digits}f}"


@dataclass(frozen=True)
class OnBoard:
    """What one file takes on one board.

    Attributes:
        target: Name of the target.
        board: Its board.
        artefact: The file.
        figures: "ms", "ram_kib", "flash_kib" -> number, for those that are known.
        notes: Sentences.
    """

    target: str
    board: str
    artefact: Artefact
    figures: Mapping[str, Taken]
    notes: tuple[str, ...] = ()


def on_boards(bundle: Bundle) -> list[OnBoard]:
    """What the bundle's files take on every built-in target.

    And on those that it was handed over to.
    """
    found = [_on_board(bundle, load_target(name)) for name in built_in()]
    others = (
        folder
        for folder in sorted(bundle.folder.glob("*/"))
        if folder.name not in built_in() and (folder / ESTIMATE).is_file()
    )
    return [
        entry
        for entry in (*found, *(_handed_over(bundle, folder) for folder in others))
        if entry is not None
    ]


def _on_board(bundle: Bundle, target: Target) -> OnBoard | None:
    artefact = bundle.artefact(target.artefact)
    if artefact is None or artefact.path is None or target.estimator is None:
        return None
    try:
        expected = estimate(read_graph(artefact.path), target)
    except HeatposeError as error:
        return OnBoard(target.name, target.board, artefact, {}, (str(error),))
    message = f"Estimated from {expected.based_on}" + (
        ", outside what the estimate was fitted on" if expected.extrapolates else ""
    )
    figures = {
        name: Taken(value, "estimated", message)
        for name in QUANTITIES
        if (value := getattr(expected, name)) is not None
    }
    return _with_result(
        bundle.folder / target.name,
        OnBoard(target.name, target.board, artefact, figures, (*expected.outside, *expected.notes)),
    )


def _handed_over(bundle: Bundle, folder: Path) -> OnBoard | None:
    """A board of one's own: what its deployment package says."""
    record, content = (
        read_result(folder / "deploy.json") or {},
        read_result(folder / ESTIMATE) or {},
    )
    artefact = next(
        (
            a
            for a in bundle.artefacts
            if a.path is not None and sha256(a.path) == record.get("model_sha256")
        ),
        None,
    )
    if artefact is None:
        return None
    try:
        expected = content.get("estimate") or {}
        message = f"Estimated from {expected.get('based_on')}"
        figures = {
            name: Taken(Interval(**expected[name]), "estimated", message)
            for name in QUANTITIES
            if expected.get(name)
        }
    except UNREADABLE:
        figures = {}
    return _with_result(
        folder, OnBoard(folder.name, str(record.get("board", folder.name)), artefact, figures)
    )


def _with_result(folder: Path, expected: OnBoard) -> OnBoard:
    """What a build or a board said takes the place of what was expected.

    If it is about this file.
    """
    result = read_result(folder / RESULT)
    if result is None or expected.artefact.path is None:
        return expected
    if result.get("model_sha256") not in (None, sha256(expected.artefact.path)):
        notes = (
            *expected.notes,
            (
                f"{folder.name}/{RESULT} is about another file and is left out; run heatpose deploy"
                " again."
            ),
        )
        return OnBoard(expected.target, expected.board, expected.artefact, expected.figures, notes)
    figures = {**expected.figures, **_said(result)}
    failure = result.get("failure")
    failed = (
        (f"The last build failed: {failure['sentence']}",)
        if isinstance(failure, Mapping) and failure.get("sentence")
        else ()
    )
    return OnBoard(
        expected.target, expected.board, expected.artefact, figures, (*expected.notes, *failed)
    )


def _said(result: Mapping[str, Any]) -> dict[str, Taken]:
    tool = str(result.get("tool_version") or "").split(" ")[0]
    found = {}
    for name, key in _RESULTS.items():
        value = result.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            source = "measured" if name == "ms" else "built"
            message = (
                f"Measured on {result.get('device') or 'a board'}"
                if name == "ms"
                else f"Built by ST Edge AI Core {tool}".rstrip()
            )
            found[name] = Taken(Interval(value, value, value), source, message)
    return found


def published_rows(bundle: Bundle) -> tuple[Published, ...]:
    """Rows of networks with the bundle's keypoints and output form, at every resolution."""
    if bundle.skeleton is None or not has_published_keypoints(bundle.skeleton):
        return ()
    return published(
        keypoints=len(bundle.skeleton), output="keypoints" if bundle.decoded else "heatmaps"
    )
