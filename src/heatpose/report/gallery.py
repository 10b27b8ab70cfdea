"""Gallery of predictions on the evaluation set, worst first: selection at export, and display.

`metrics.json` has poses and labels, not pixels; a report reads the images from their folder.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.evaluation.metrics import keypoint_similarity
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton
from heatpose.report.bundle import ARTEFACT_TITLES, DEPLOYED, Bundle
from heatpose.report.content import Values, reading

if TYPE_CHECKING:
    from heatpose.data.sample import Person
    from heatpose.evaluation.evaluate import EvalReport

WORST, OTHERS = 12, 6
SIDE = 400
"""Longest side of an image on the page, in pixels."""
THRESHOLD = 0.2
"""Minimum score at which unlabelled keypoints are drawn."""


def gallery_record(
    reports: Mapping[str, EvalReport | None], instances: Sequence[Person]
) -> dict[str, Any] | None:
    """Entry `gallery` of `metrics.json`: instances with the lowest OKS, and a sample of the rest.

    Args:
        reports: Artefact -> scores, or None.
        instances: Scored instances, in the order of the reports.

    Returns:
        Artefact, folder of the images, and for each instance image, box, labels and pose
        (normalised x, y); None if nothing was scored.
    """
    kind = next((kind for kind in DEPLOYED if reports.get(kind) is not None), None)
    report = None if kind is None else reports[kind]
    if kind is None or report is None or not instances:
        return None
    order = np.argsort(report.oks_values, kind="stable")
    rest = order[WORST:]
    spread = (
        rest[np.unique(np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).astype(int))]
        if len(rest)
        else rest
    )
    chosen = [int(i) for i in (*order[:WORST], *spread)]
    entries = [_entry(instances[i], report.poses[i], float(report.oks_values[i])) for i in chosen]
    return {"artefact": kind, "folder": str(instances[0].folder), "people": entries}


def _entry(person: Person, pose: NDArray[np.float32], oks: float) -> dict[str, Any]:
    size = np.array([person.width, person.height])
    labels = np.concatenate([person.keypoints / size, person.labelled[:, None]], 1)
    return {
        "image_id": person.image_id,
        "file_name": person.name,
        "width": person.width,
        "height": person.height,
        "stored": person.reading == "stored",
        "box": [round(value, 2) for value in person.box],
        "oks": 100 * oks,
        "label": [[round(float(x), 4), round(float(y), 4), int(v)] for x, y, v in labels],
        "pose": [[round(float(value), 4) for value in point] for point in pose],
    }


def gallery(bundles: Sequence[Bundle], images: Path | None, show_images: bool) -> Values:
    """The recorded instances of each bundle: (label, artefact's title, arguments of `person`)."""
    if not show_images:
        return {"galleries": [], "missing": ["Images were left out of this report."]}
    galleries, missing = list[tuple[str, str, list[Values]]](), list[str]()
    limit = WORST + OTHERS if len(bundles) <= 2 else 6
    for number, bundle in enumerate(bundles):
        with reading(f"The images of '{bundle.label}'", missing):
            record, skeleton = bundle.metrics.get("gallery"), bundle.skeleton
            if not record or skeleton is None:
                missing.append(
                    f"No predictions of '{bundle.label}' were recorded: nothing was scored, or an"
                    " older version exported it."
                )
                continue
            title, folder = ARTEFACT_TITLES[record["artefact"]], images or Path(record["folder"])
            reference = bundle.artefact("torch") if record["artefact"] != "torch" else None
            before = {} if reference is None else reference.image_scores
            entries, found = record["people"][:limit], list[Values]()
            for i, entry in enumerate(entries):
                path = _inside(folder, str(entry["file_name"]))
                with suppress(HeatposeError):
                    image = _image(entry, path, skeleton, before.get(entry["image_id"]))
                    found.append({"name": f"person_{number}_{i}", **image})
            if found:
                galleries.append((bundle.label, title, found))
            if len(found) < len(entries):
                absent = len(entries) - len(found)
                what = f"{absent} of {len(entries)} images" if found else "The images"
                missing.append(
                    f"{what} of '{bundle.label}' cannot be read in '{folder}'; give their folder"
                    " with `heatpose report --images FOLDER`."
                )
    return {"galleries": galleries, "missing": missing}


def _inside(folder: Path, name: str) -> Path:
    """Path of an image below a folder; of a path outside, only the file name is used."""
    path = Path(name)
    return folder / (path.name if path.is_absolute() or ".." in path.parts else path)


def _image(
    entry: Mapping[str, Any], path: Path, skeleton: Skeleton, before: float | None
) -> Values:
    """Arguments of the macro `person`, without its name.

    Raises:
        HeatposeError: The image file is missing or unreadable.
    """
    from PIL import Image

    from heatpose.utils.image_files import load_image

    image = load_image(path, entry["width"], entry["height"], entry.get("stored", False))
    size = np.array([entry["width"], entry["height"]], np.float64)
    label, pose = np.array(entry["label"], np.float64), np.array(entry["pose"], np.float64)
    left, top, right, bottom = _view(entry["box"], label, pose, size)
    scale = SIDE / max(right - left, bottom - top)
    width, height = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
    tile = Image.fromarray(image[top:bottom, left:right]).resize(
        (width, height), Image.Resampling.LANCZOS
    )
    points = [(marks[:, :2] * size - (left, top)) * scale for marks in (label, pose)]
    labelled = label[:, 2] > 0
    hints = _hints(entry, label, pose, skeleton)
    drawings = [
        ("label", *_drawn(points[0], labelled, skeleton, skeleton.keypoints)),
        ("prediction", *_drawn(points[1], labelled | (pose[:, 2] >= THRESHOLD), skeleton, hints)),
    ]
    share = np.sqrt(entry["box"][2] * entry["box"][3] / size.prod())
    message = [
        f"image {entry['image_id']}",
        f"{int(labelled.sum())} of {len(skeleton)} labelled",
        f"side {100 * share:.0f} % of the image's",
    ]
    message += [] if before is None else [f"float network {before:.1f} %"]
    extent = float(np.ptp(points[0][labelled], axis=0).max()) if labelled.any() else 0.0
    line = max(2.4, min(4.0, 0.022 * extent))
    return {
        "data": _jpeg(tile),
        "width": width,
        "height": height,
        "line": round(line, 2),
        "drawings": drawings,
        "score": f"{entry['oks']:.1f} %",
        "caption": ", ".join(message),
    }


def _view(
    box: Sequence[float],
    label: NDArray[np.float64],
    pose: NDArray[np.float64],
    size: NDArray[np.float64],
) -> tuple[int, int, int, int]:
    """Crop (left, top, right, bottom) in pixels around the box and all drawn keypoints."""
    seen = (
        np.concatenate(
            [label[label[:, 2] > 0, :2], pose[(label[:, 2] > 0) | (pose[:, 2] >= THRESHOLD), :2]]
        )
        * size
    )
    corners = np.concatenate([seen, [box[:2]], [np.add(box[:2], box[2:])]])
    low, high = corners.min(0), corners.max(0)
    margin = 0.15 * (high - low).max() + 8
    left, top = np.clip(np.floor(low - margin), 0, size - 1).astype(int)
    right, bottom = np.clip(np.ceil(high + margin), (left + 1, top + 1), size).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _hints(
    entry: Mapping[str, Any],
    label: NDArray[np.float64],
    pose: NDArray[np.float64],
    skeleton: Skeleton,
) -> list[str]:
    """Tooltip of each keypoint: name, score and, if labelled, similarity."""
    area = AREA_OF_BOX * entry["box"][2] * entry["box"][3] / (entry["width"] * entry["height"])
    similarity = keypoint_similarity(
        pose[None, :, :2], label[None, :, :2], np.array([area]), skeleton.sigmas
    )[0]
    scored = [
        f", similarity {100 * s:.0f} %" if v > 0 else ", not labelled"
        for s, v in zip(similarity, label[:, 2], strict=True)
    ]
    return [
        f"{name}: score {score:.2f}{message}"
        for name, score, message in zip(skeleton.keypoints, pose[:, 2], scored, strict=True)
    ]


def _drawn(
    points: NDArray[np.float64], shown: NDArray[np.bool_], skeleton: Skeleton, hints: Sequence[str]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Limbs (x1, y1, x2, y2, colour) and joints (x, y, colour, hint) of the shown keypoints."""
    from heatpose.pose.draw import limb_colour, side_colours

    colours = side_colours(skeleton)
    places = [(round(float(x), 1), round(float(y), 1)) for x, y in points]
    limbs = [
        (*places[a], *places[b], _css(limb_colour(colours[a], colours[b])))
        for a, b in skeleton.edge_indices
        if shown[a] and shown[b]
    ]
    joints = [(*places[k], _css(colours[k]), hints[k]) for k in range(len(places)) if shown[k]]
    return limbs, joints


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _jpeg(tile: Any) -> str:
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=78, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
