"""The way back: COCO content as Label Studio tasks with predictions, to be corrected there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

BOX, KEYPOINT, IMAGE = "box", "keypoint", "image"
"""Names of the labelling interface's tags."""
POINT_PERCENT = 0.5
"""Size that a point is drawn with, in percent of the image's width."""
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its own machine from."""


def tasks(
    images: Mapping[int, Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    prefix: str = LOCAL_FILES,
) -> list[dict[str, Any]]:
    """A task for each image, with a box and its keypoints for each instance.

    Args:
        images: Image id -> COCO entry.
        annotations: COCO keypoint annotations.
        names: Of the keypoints, in the order of the annotations.
        prefix: Put before each `file_name` to make the address of the image.
    """
    found: dict[int, list[Mapping[str, Any]]] = {key: [] for key in images}
    for annotation in annotations:
        found[int(annotation["image_id"])].append(annotation)
    return [
        {
            "data": {IMAGE: prefix + quote(str(image["file_name"]))},
            "predictions": [
                {
                    "model_version": "heatpose",
                    "result": [
                        region
                        for number, one in enumerate(found[key])
                        for region in _regions(one, f"instance{number}", image, names)
                    ],
                }
            ],
        }
        for key, image in images.items()
    ]


def interface(names: Sequence[str]) -> str:
    """The labelling interface (XML) that the tasks are made for."""
    labels = [
        f"    <Label value={quoteattr(n)} model_index={quoteattr(str(i))}/>"
        for i, n in enumerate(names)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>',
            f'  <RectangleLabels name="{BOX}" toName="{IMAGE}">',
            '    <Label value="person"/>',
            "  </RectangleLabels>",
            f'  <KeyPointLabels name="{KEYPOINT}" toName="{IMAGE}">',
            *labels,
            "  </KeyPointLabels>",
            "</View>",
            "",
        ]
    )


def _regions(
    annotation: Mapping[str, Any], key: str, image: Mapping[str, Any], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    width, height = float(image["width"]), float(image["height"])
    usual = {
        "to_name": IMAGE,
        "image_rotation": 0,
        "original_width": int(width),
        "original_height": int(height),
    }
    x, y, w, h = annotation["bbox"]
    box = {
        "x": 100 * x / width,
        "y": 100 * y / height,
        "width": 100 * w / width,
        "height": 100 * h / height,
        "rotation": 0,
        "rectanglelabels": ["person"],
    }
    yield {"id": key, "type": "rectanglelabels", "from_name": BOX, "value": box, **usual}
    values = annotation["keypoints"]
    for i, name in enumerate(names):
        px, py, visibility = values[3 * i : 3 * i + 3]
        if visibility:
            point = {
                "x": 100 * px / width,
                "y": 100 * py / height,
                "width": POINT_PERCENT,
                "keypointlabels": [name],
            }
            yield {
                "id": f"{key}_{i}",
                "type": "keypointlabels",
                "from_name": KEYPOINT,
                "parentID": key,
                "value": point,
                **usual,
            }
