"""Outputs of model files: recognition of their layout, conversion to poses, common errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.facts import FileFacts
from heatpose.errors import HeatposeError
from heatpose.pose import codec


def no_pose_model(path: Path, reason: str) -> HeatposeError:
    """The error for a readable file that is not a pose model."""
    return HeatposeError(f"'{path}' is not a single-person pose model: {reason}.")


def no_scale(path: Path, output: str, dtype: str) -> HeatposeError:
    """The error for an integer output without a scale."""
    reason = f"its output '{output}' is {dtype} without a scale"
    return HeatposeError(f"'{path}' cannot be scored: {reason}; export it with a float output.")


def first_line(error: Exception) -> str:
    """The first line of a library's error as a clause; the rest is paragraphs and source lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


def check_images(images: NDArray[np.uint8], size: int) -> None:
    """Requires u8[B, S, S, 3] with B >= 1.

    Raises:
        ValueError: The shape or dtype differs: an error of the calling code, not of the user.
    """
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or not len(images)
        or images.shape[1:] != (size, size, 3)
    ):
        raise ValueError(
            f"A runner takes u8[B, {size}, {size}, 3]; B at least 1; got"
            f" {images.dtype}{list(images.shape)}."
        )


def check_size(path: Path, own: int, wanted: int | None) -> None:
    """Requires that a given input side is the file's own.

    Raises:
        HeatposeError: `wanted` is given and differs from `own`.
    """
    if wanted is not None and wanted != own:
        raise HeatposeError(
            f"'{path}' is made for {own}x{own} images and cannot run at {wanted}; export it again"
            " at that resolution."
        )


MOST_KEYPOINTS = 256  # whole-body sets have 133
STRIDES = (2, 4, 8, 16)
RANGE_SLACK = 1e-3  # tolerance for probabilities outside [0, 1] after int8 rounding


class Layout(Enum):
    """Layout of an output; the batch is its first dimension."""

    MAPS_LAST = "(B, H, W, K) heatmaps"
    MAPS_FIRST = "(B, K, H, W) heatmaps"
    POSE_YX = "(B, 1, K, 3) y, x, score: Google's MoveNet with its decode"
    POSE_XY = "(B, K * 3) x, y, score: ours with its decode"


@dataclass(frozen=True)
class OutputSpec:
    """A recognised output.

    Attributes:
        position: Index among the model's outputs.
        layout: Its layout.
        keypoints: K.
        ambiguous: Whether the shape fits two layouts.
    """

    position: int
    layout: Layout
    keypoints: int
    ambiguous: bool = False

    @property
    def decoded(self) -> bool:
        """Whether the model includes its decode: the output is a pose, not heatmaps."""
        return self.layout in (Layout.POSE_YX, Layout.POSE_XY)

    def assumed(self, facts: FileFacts) -> str:
        """The layout if it is assumed, because neither shape nor file determine it; else ""."""
        layout = self.layout.value.partition(":")[0]  # without its origin
        return layout if (self.decoded or self.ambiguous) and facts.skeleton is None else ""


def choose_output(
    path: Path, shapes: Sequence[Sequence[int]], size: int, channels_first: bool = False
) -> OutputSpec:
    """Finds the output with the pose: the only decoded pose, else the only stack of heatmaps.

    Args:
        path: The file, for the message.
        shapes: Shapes of all outputs.
        size: S.
        channels_first: Reads an ambiguous shape, such as (1, 48, 48, 48), as (B, K, H, W).

    Raises:
        HeatposeError: No output has a known layout, or several have.
    """
    specs = [_recognise(i, tuple(shape), size, channels_first) for i, shape in enumerate(shapes)]
    known = [spec for spec in specs if spec is not None]
    poses = [spec for spec in known if spec.decoded]
    choice = poses or known
    if len(choice) == 1:
        return choice[0]
    listed = ", ".join(str(tuple(shape)) for shape in shapes) or "nothing"
    why = (
        "several could be the pose" if choice else "none is (1, H, W, K), (1, 1, K, 3) or (1, K*3)"
    )
    raise no_pose_model(path, f"its outputs are {listed} for an input of side {size}; {why}")


def _recognise(
    position: int, shape: tuple[int, ...], size: int, channels_first: bool
) -> OutputSpec | None:
    layout, keypoints, ambiguous = None, 0, False
    if len(shape) == 2 and shape[1] % 3 == 0:
        layout, keypoints = Layout.POSE_XY, shape[1] // 3
    elif len(shape) == 4 and shape[1] == 1 and shape[3] == 3:
        layout, keypoints = Layout.POSE_YX, shape[2]
    elif len(shape) == 4:
        last, first = _is_grid(shape[1:3], size), _is_grid(shape[2:4], size)
        ambiguous = last and first
        if first and (channels_first or not last):
            layout, keypoints = Layout.MAPS_FIRST, shape[1]
        elif last:
            layout, keypoints = Layout.MAPS_LAST, shape[3]
    if layout is None or not 1 <= keypoints <= MOST_KEYPOINTS:
        return None
    return OutputSpec(position, layout, keypoints, ambiguous)


def _is_grid(sides: tuple[int, ...], size: int) -> bool:
    """Whether the sides are those of a heatmap: square, at a stride of pose networks."""
    rows, columns = sides
    return rows == columns and any(rows * stride == size for stride in STRIDES)


def heatmaps_of(values: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """Converts f32[B, K, H, W] or f32[B, H, W, K], by `layout`, to f32[B, K, H, W]."""
    return (
        values
        if layout is Layout.MAPS_FIRST
        else np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    )


def poses_of(values: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """Converts f32[B, K * 3] or f32[B, 1, K, 3], by `layout`, to f32[B, K, 3] x, y, score."""
    triples = values.reshape(len(values), -1, 3)
    return triples[..., [1, 0, 2]] if layout is Layout.POSE_YX else triples


def poses_from_heatmaps(
    heatmaps: NDArray[np.float32], decode: str, probabilities: bool | None
) -> NDArray[np.float32]:
    """Decodes heatmaps, and converts the value of the highest cell to a score.

    Args:
        heatmaps: f32[B, K, H, W].
        decode: A method of `heatpose.pose.codec.decode`.
        probabilities: True for probabilities, which are the scores. False for logits, whose sigmoid
            is the score. None decides per image: probabilities if all its values are in [0, 1],
            which logits of a whole image never are.

    Returns:
        f32[B, K, 3]: x and y as fractions of the input, score in [0, 1].
    """
    poses = codec.decode(heatmaps, decode)
    poses[..., 2] = scores_of(poses[..., 2], heatmaps, probabilities)
    return poses


def scores_of(
    values: NDArray[np.float32], heatmaps: NDArray[np.float32], probabilities: bool | None
) -> NDArray[np.float32]:
    """Converts values f32[B, K] of cells of `heatmaps` to scores in [0, 1].

    The other arguments are those of `poses_from_heatmaps`.
    """
    if probabilities is None:
        in_range = (heatmaps.min((1, 2, 3)) >= -RANGE_SLACK) & (
            heatmaps.max((1, 2, 3)) <= 1 + RANGE_SLACK
        )
    else:
        in_range = np.full(len(heatmaps), probabilities)
    # the same function as 1 / (1 + exp(-value)), without overflow
    sigmoid = 0.5 + 0.5 * np.tanh(0.5 * values)
    scores: NDArray[np.float32] = np.clip(np.where(in_range[:, None], values, sigmoid), 0, 1)
    return scores
