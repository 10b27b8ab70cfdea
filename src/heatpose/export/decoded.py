"""Files that decode inside: which operators the decode is, and how far their poses are from the network's.

Shape legend: N images, K keypoints. Pixels are those of the network's input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.export.gates import GateLimits, GateResult
from heatpose.preprocessing import Preprocessing

if TYPE_CHECKING:
    from heatpose.models.decode import PoseForm
    from heatpose.models.movenet import MoveNet

DECODE_OPERATORS = {
    "ADD": 8, "ARG_MAX": 2, "CAST": 3, "CONCATENATION": 1, "DIV": 1, "GATHER": 8, "LESS": 3, "LOGISTIC": 2, "MUL": 8, "RESHAPE": 9, "SQRT": 1,
    "STRIDED_SLICE": 2, "SUB": 2,
}  # fmt: skip
"""What the converter makes of `models.decode`: all of them TFLite's own, no TRANSPOSE. CAST and LESS guard its GATHERs against negative indices."""
_NOT_FOR_ONE = {"ADD": 2, "CAST": 1, "LESS": 1, "MUL": 2, "RESHAPE": 1}  # the index of a single keypoint needs no arithmetic


@dataclass(frozen=True)
class DecodedReference:
    """What the network itself says.

    Attributes:
        poses: f32[N, K, 3] x and y as fractions of the input, score.
        margins: f32[N, K] of `models.decode.decode_margins`.
    """

    poses: NDArray[np.float32]
    margins: NDArray[np.float32]


@dataclass(frozen=True)
class PoseParity:
    """A float file that decodes inside, against the network.

    Attributes:
        score: Largest difference of a score, over keypoints that are not tied.
        pose_px: Largest distance of a keypoint, in pixels, over the same.
        tied: Keypoints left out: two cells are so near to each other in a search that the float differences allowed may choose either.
        keypoints: N * K.
    """

    score: float
    pose_px: float
    tied: int
    keypoints: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def with_decode(operators: Mapping[str, int], keypoints: int, pose: PoseForm = "xy") -> dict[str, int]:
    """The operators of a float file by name, decode included.

    Args:
        operators: Of the network alone, without a sigmoid at its end.
        keypoints: K.
        pose: Form of the output.
    """
    decode = Counter(DECODE_OPERATORS)
    if pose == "yx":
        decode["GATHER"] += 1  # turns x, y into y, x
    if keypoints == 1:
        decode -= Counter(_NOT_FOR_ONE)
    return dict(Counter(operators) + decode)


def decoded_reference(network: MoveNet, preprocessing: Preprocessing, images: NDArray[np.uint8]) -> DecodedReference:
    """Runs a network with four heads over u8[N, S, S, 3], a few images at a time."""
    import torch

    from heatpose.models.decode import decode_maps, decode_margins

    poses, margins = [], []
    for start in range(0, len(images), 16):
        with torch.inference_mode():
            maps = network(preprocessing.normalise(torch.tensor(images[start : start + 16]).permute(0, 3, 1, 2)))
            poses.append(decode_maps(maps).numpy())
            margins.append(decode_margins(maps).numpy())
    return DecodedReference(np.concatenate(poses), np.concatenate(margins))


def pose_parity(reference: DecodedReference, found: NDArray[np.float32], *, size: int, tie: float) -> PoseParity:
    """Compares a file's poses with the network's.

    Args:
        reference: The network's.
        found: f32[N, K, 3] the file's, x and y first.
        size: Side S of the input.
        tie: How far two logits or two lengths in cells of the same place may be apart. That changes a cell's share of a search by less than
            twice as much, and a lead by less than four times.
    """
    clear = reference.margins > 4 * tie
    moved = (reference.poses - found)[clear]
    return PoseParity(
        score=float(np.abs(moved[:, 2]).max(initial=0)),
        pose_px=size * float(np.hypot(moved[:, 0], moved[:, 1]).max(initial=0)),
        tied=int((~clear).sum()),
        keypoints=clear.size,
    )


def pose_gate(artefact: str, parity: PoseParity, limits: GateLimits) -> GateResult:
    """Gate 2 for a float file that decodes inside: it gives the poses that the network gives."""
    all_tied = parity.tied == parity.keypoints
    passed = parity.score <= limits.logits and parity.pose_px <= limits.pose_px and not all_tied
    sentence = (
        f"Scores differ by at most {parity.score:.1e} (limit {limits.logits:g}), poses by {parity.pose_px:.4f} px "
        f"(limit {limits.pose_px:g}); {parity.tied} of {parity.keypoints} keypoints are tied."
    )
    return GateResult("parity", artefact, passed, sentence, parity.to_json())
