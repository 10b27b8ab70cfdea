"""Keypoint sets: names, pairs, edges and OKS sigmas; conversion of a dataset's keypoints.

To add a keypoint set:

1. Write a YAML like `conf/skeleton/st13.yaml` into `conf/skeleton/`, or into a folder given by
   `--config-dir`.
2. Select it with `skeleton=NAME`. No other code depends on the number of keypoints.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError, first_line


@dataclass(frozen=True)
class Skeleton:
    """A keypoint set.

    Attributes:
        name: Short name, used in file names and tables.
        keypoints: K keypoint names in the order of the network's channels.
        sigmas: K OKS constants (COCO's `kpt_oks_sigmas`), as fractions of the square root of the
            instance's area.
        flip_pairs: Names that are exchanged when an image is mirrored, for example `[[left_eye,
            right_eye]]`.
        edges: Pairs of names joined by a line in a drawing.
        merge: For a keypoint that the dataset lacks: the dataset's keypoints that are averaged if
            labelled. Keypoints not in `merge` are the dataset's keypoints of the same name.

    Raises:
        HeatposeError: The names, sigmas, pairs or rules are inconsistent.
    """

    name: str
    keypoints: Sequence[str]
    sigmas: Sequence[float]
    flip_pairs: Sequence[Sequence[str]] = ()
    edges: Sequence[Sequence[str]] = ()
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if odd := [list(pair) for pair in (*self.flip_pairs, *self.edges) if len(pair) != 2]:
            raise HeatposeError(
                f"Skeleton '{self.name}': flip_pairs and edges are pairs of names, not {odd}."
            )
        plain = {
            "keypoints": tuple(str(name) for name in self.keypoints),
            "sigmas": tuple(float(sigma) for sigma in self.sigmas),
            "flip_pairs": tuple((str(a), str(b)) for a, b in self.flip_pairs),
            "edges": tuple((str(a), str(b)) for a, b in self.edges),
            "merge": {
                str(name): tuple(str(source) for source in sources)
                for name, sources in self.merge.items()
            },
        }
        for attribute, value in plain.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        if empty := sorted(name for name, sources in self.merge.items() if not sources):
            raise HeatposeError(
                f"Skeleton '{self.name}' has merge rules without sources for {empty}."
            )
        known = set(self.keypoints)
        if not known or len(known) != len(self.keypoints):
            raise HeatposeError(
                f"Skeleton '{self.name}' needs at least one keypoint and each name once; got"
                f" {list(self.keypoints)}."
            )
        if len(self.sigmas) != len(self.keypoints) or not all(
            0 < sigma < float("inf") for sigma in self.sigmas
        ):
            raise HeatposeError(
                f"Skeleton '{self.name}' has {len(self.keypoints)} keypoints and needs as many"
                f" positive sigmas; got {list(self.sigmas)}."
            )
        named = [*self.merge, *(name for pair in (*self.flip_pairs, *self.edges) for name in pair)]
        if unknown := sorted({name for name in named if name not in known}):
            raise HeatposeError(
                f"Skeleton '{self.name}' names {unknown} in flip_pairs, edges or merge, but not in"
                " keypoints."
            )
        swapped = [name for pair in self.flip_pairs for name in pair]
        if len(set(swapped)) != len(swapped):
            raise HeatposeError(
                f"Skeleton '{self.name}' names a keypoint in more than one flip pair: {swapped}."
            )

    def __len__(self) -> int:
        return len(self.keypoints)

    def index(self, name: str) -> int:
        """Channel of the keypoint `name`."""
        return list(self.keypoints).index(name)

    @cached_property
    def flip_order(self) -> list[int]:
        """K channel indices: entry k is the channel of keypoint k in the mirrored image."""
        order = list(range(len(self)))
        for left, right in self.flip_pairs:
            order[self.index(left)], order[self.index(right)] = self.index(right), self.index(left)
        return order

    @cached_property
    def edge_indices(self) -> list[tuple[int, int]]:
        """The edges as pairs of channel indices."""
        return [(self.index(a), self.index(b)) for a, b in self.edges]

    @property
    def unpaired(self) -> list[tuple[str, str]]:
        """Left and right keypoints, by their names, that are not in `flip_pairs`."""
        given = {frozenset(pair) for pair in self.flip_pairs}
        return [pair for pair in named_pairs(self.keypoints) if frozenset(pair) not in given]

    def require_flip_pairs(self, without: str) -> None:
        """Refuses mirroring if left and right keypoints, by their names, are not paired.

        Args:
            without: The setting that turns mirroring off, for the message.

        Raises:
            HeatposeError: Some are not paired; the message has the `flip_pairs` to write.
        """
        if unpaired := self.unpaired:
            named = named_pairs(self.keypoints)
            paired = {name for pair in named for name in pair}
            rest = [pair for pair in self.flip_pairs if not paired & set(pair)]
            pairs = ", ".join(f"[{_yaml(a)}, {_yaml(b)}]" for a, b in (*named, *rest))
            left, right = unpaired[0]
            raise HeatposeError(
                f"Skeleton '{self.name}' does not pair '{left}' with '{right}', and mirrored images"
                f" would teach the one as the other; write flip_pairs: [{pairs}] into it, or set"
                f" {without}."
            )

    def sources(self, dataset_names: Sequence[str]) -> list[list[int]]:
        """For each keypoint, the indices in `dataset_names` of its sources.

        Raises:
            HeatposeError: A keypoint is neither in the dataset nor covered by a merge rule.
        """
        place = {name: i for i, name in enumerate(dataset_names)}
        result = []
        for name in self.keypoints:
            wanted = self.merge.get(name, (name,))
            if missing := [source for source in wanted if source not in place]:
                near = difflib.get_close_matches(missing[0], dataset_names, 1)
                meant = f"did you mean {near[0]}? Else " if near else ""
                rule = "correct its merge rule" if name in self.merge else "add a merge rule"
                raise HeatposeError(
                    f"Skeleton '{self.name}': keypoint '{name}' needs {missing}, which the dataset"
                    f" does not label (it has {list(dataset_names)}); {meant}{rule} or drop the"
                    " keypoint."
                )
            result.append([place[source] for source in wanted])
        return result

    def convert(
        self, points: NDArray[np.float32], labelled: NDArray[np.bool_], dataset_names: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Converts a dataset's keypoints to this skeleton's.

        Args:
            points: f32[..., D, 2] x, y of the dataset's keypoints, in any frame.
            labelled: bool[..., D].
            dataset_names: D names.

        Returns:
            f32[..., K, 2] and bool[..., K]: the mean of the labelled sources; a keypoint without
            one is at the origin and not labelled.
        """
        sources = self.sources(dataset_names)
        out = np.zeros((*points.shape[:-2], len(self), 2), np.float32)
        seen = np.zeros(out.shape[:-1], np.bool_)
        for k, columns in enumerate(sources):
            weight = labelled[..., columns].astype(np.float32)
            count = weight.sum(-1)
            seen[..., k] = count > 0
            out[..., k, :] = (points[..., columns, :] * weight[..., None]).sum(-2) / np.maximum(
                count, 1
            )[..., None]
        return out, seen

    def to_dict(self) -> dict[str, Any]:
        """Plain values for manifests and checkpoints; `Skeleton(**d)` is the inverse."""
        plain = asdict(self)
        return {
            **plain,
            "keypoints": list(self.keypoints),
            "sigmas": list(self.sigmas),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "edges": [list(pair) for pair in self.edges],
            "merge": {name: list(sources) for name, sources in self.merge.items()},
        }

    @classmethod
    def from_yaml(cls, path: str | Path) -> Skeleton:
        """Reads a skeleton YAML in the format of `conf/skeleton/*.yaml`.

        Raises:
            HeatposeError: The file cannot be read or has another format.
        """
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return cls(**{key: value for key, value in content.items() if key != "_target_"})
        except (OSError, yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
            lines = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else ""
            reason = getattr(error, "strerror", None) or lines or first_line(error)
            raise HeatposeError(
                f"'{path}' is not a skeleton YAML ({reason}); conf/skeleton/st13.yaml shows the"
                " format."
            ) from error


AS_LABELLED = "as labelled"
"""Name of a skeleton with the labels' own keypoint names."""
_BODY = (
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_BODY_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089)
_BODY_PAIRS = tuple((_BODY[i], _BODY[i + 1]) for i in range(0, len(_BODY), 2))
_BODY_EDGES = (
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_hip", "right_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
)

COCO_17 = Skeleton(
    name="coco17",
    keypoints=(*_FACE, *_BODY),
    sigmas=(0.026, 0.025, 0.025, 0.035, 0.035, *_BODY_SIGMAS),
    flip_pairs=(("left_eye", "right_eye"), ("left_ear", "right_ear"), *_BODY_PAIRS),
    edges=(
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        *_BODY_EDGES,
    ),
)
"""COCO-Person's 17 keypoints; sigmas as in pycocotools `Params.kpt_oks_sigmas`."""

ST_13 = Skeleton(
    name="st13",
    keypoints=("head", *_BODY),
    sigmas=(0.035, *_BODY_SIGMAS),
    flip_pairs=_BODY_PAIRS,
    edges=(("head", "left_shoulder"), ("head", "right_shoulder"), *_BODY_EDGES),
    merge={"head": _FACE},
)
"""ST's 13 keypoints: `head` is the mean of the labelled face points (published protocol, rule 6).
"""

BUILT_IN = (COCO_17, ST_13)


def named_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of left and right keypoints by their names.

    Recognised are left_eye, Left Eye, l_eye, eye_l, LEye, leftEye, eye.L.

    Args:
        names: Keypoint names.

    Returns:
        (left, right) for each existing pair, in the order of the left ones.
    """
    sides: dict[tuple[str, tuple[str, ...]], str] = {}
    for name in names:
        words = re.split(r"[\W_]+", _CAMEL_CASE.sub(" ", name).lower())
        words = [part for word in words for part in _SIDE_WORD.split(word) if part]
        at = next((i for i, word in enumerate(words) if word in _SIDES), None)
        if at is not None:
            sides[_SIDES[words[at]], tuple(words[:at] + words[at + 1 :])] = name
    lefts = ((rest, name) for (side, rest), name in sides.items() if side == "left")
    return [(name, sides["right", rest]) for rest, name in lefts if ("right", rest) in sides]


_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_CAMEL_CASE = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SIDE_WORD = re.compile("^(left|right)|(left|right)$")


def _yaml(name: str) -> str:
    """A name as an element of a YAML list."""
    return name if re.fullmatch(r"[A-Za-z_][\w.-]*", name) else json.dumps(name, ensure_ascii=False)


def named(name: str | Path) -> Skeleton:
    """A built-in skeleton by its name, or the skeleton of a YAML file.

    Raises:
        HeatposeError: `name` is neither.
    """
    built_in = {skeleton.name: skeleton for skeleton in BUILT_IN}
    if str(name) in built_in:
        return built_in[str(name)]
    if not Path(name).is_file():
        known = ", ".join(built_in)
        sentence = f"Skeleton '{name}' is neither built in ({known}) nor a file; give one of them."
        raise HeatposeError(sentence)
    return Skeleton.from_yaml(name)


def for_labels(dataset_names: Sequence[str]) -> Skeleton:
    """A skeleton for inspecting labels: COCO's 17 keypoints if present, else the dataset's own.

    For the latter, edges are empty, sigmas are placeholders, and pairs follow from the names.

    Args:
        dataset_names: Keypoint names of a label file.
    """
    if set(COCO_17.keypoints) <= set(dataset_names):
        return COCO_17
    sigmas, pairs = (0.05,) * len(dataset_names), named_pairs(dataset_names)
    return Skeleton(AS_LABELLED, tuple(dataset_names), sigmas, pairs)


def for_keypoint_count(count: int) -> Skeleton:
    """The built-in skeleton with `count` keypoints, for model files that do not state theirs.

    Raises:
        HeatposeError: There is none.
    """
    for skeleton in BUILT_IN:
        if len(skeleton) == count:
            return skeleton
    raise HeatposeError(
        f"The model has {count} keypoints and no skeleton of its own; give one with "
        "--skeleton FILE.yaml (a teacher: distill.skeleton)."
    )


AREA_OF_BOX = 0.53
"""Area of an instance as a fraction of its box's area, in the published protocol."""
