"""Ultralytics YOLO pose: a `data.yaml`, a text file of normalised numbers for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from heatpose.data.formats.base import Box, Builder, LabelSet, Point, Request
from heatpose.data.formats.image_files import image_files, orientations
from heatpose.data.formats.yolo_yaml import ASSUMED, YAML, PoseYaml, find_yaml, read_yaml
from heatpose.errors import HeatposeError

NAME = "Ultralytics YOLO pose"
UPWARDS = 3
"""So many folders above the label files a `data.yaml` is looked for."""
WELL_OUTSIDE = 0.5
"""A fraction of the image this far outside it is a number in pixels."""
UNREADABLE = "images that cannot be read"
MISSING = "images that are listed but missing"
NO_IMAGE = "label files without an image"
OTHER_CLASS = "instances of other classes than person"


def recognise(request: Request) -> bool:
    """A YAML file, or a folder of .txt files."""
    if request.path.is_dir():
        return next(request.path.glob("*.txt"), None) is not None
    return request.path.suffix.lower() in YAML


def read(request: Request) -> LabelSet:
    """Reads one part of a data set, or the label files of a folder.

    Raises:
        HeatposeError: The YAML, the part or a line does not fit; names the file and the line.
    """
    if request.path.is_dir():
        return _read_folder(request)
    yaml = read_yaml(request.path)
    part = _part(yaml, request.part)
    images, folders = yaml.files(part)
    labels = {image: label_file(image) for image in images}
    reader = _Reader(yaml, request.path, f"{NAME} ({part})")
    for folder in folders:
        known = set(labels.values())
        reader.count_orphans(label_file(folder / "x").parent, known)
    return reader.read(labels, request.images)


def image_folder(yaml: PoseYaml, part: str) -> Path:
    """The folder that file names of a part are relative to.

    Raises:
        HeatposeError: The part has no image.
    """
    images, folders = yaml.files(part)
    if len(folders) == len(yaml.parts[part]) == 1:
        return folders[0]
    if not images:
        raise HeatposeError(f"'{yaml.path}', {part}: no image is there.")
    builder = Builder(NAME, yaml.path)
    for image in images:
        builder.image(image, 1, 1)
    return builder.finish(yaml.keypoints, None).folder


def label_file(image: Path) -> Path:
    """Where the labels of an image are: in `labels/` for `images/`, else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _part(yaml: PoseYaml, wanted: str) -> str:
    if wanted in yaml.parts:
        return wanted
    if wanted == "val" and "test" in yaml.parts:
        return "test"
    raise HeatposeError(f"'{yaml.path}' has no {wanted} entry; it has {', '.join(yaml.parts)}.")


def without_yaml(folder: Path) -> HeatposeError:
    """Label files whose keypoints are not known."""
    return HeatposeError(
        f"'{folder}' has .txt labels but no data.yaml beside or above it; write one with "
        "'train: images', 'kpt_shape: [17, 3]' and 'kpt_names: {0: [nose, ...]}'."
    )


def _read_folder(request: Request) -> LabelSet:
    """The .txt files of a folder; their images are in `images/` for `labels/`, or given."""
    folder = request.path
    found = find_yaml(folder, UPWARDS)
    if found is None:
        raise without_yaml(folder)
    images = request.images or _images_of(folder)
    texts = {
        path.relative_to(folder).with_suffix(""): path for path in sorted(folder.rglob("*.txt"))
    }
    labels = {}
    for image in image_files(images):
        place = image.relative_to(images).with_suffix("")
        labels[image] = texts.get(place, folder / place.with_suffix(".txt"))
    reader = _Reader(read_yaml(found), folder, NAME)
    reader.count_orphans(folder, set(labels.values()))
    return reader.read(labels, images)


def _images_of(folder: Path) -> Path:
    parts = list(folder.absolute().parts)
    places = [i for i, part in enumerate(parts) if part == "labels"]
    if places:
        parts[places[-1]] = "images"
    return Path(*parts)


class _Reader:
    """Turns label files into instances."""

    def __init__(self, yaml: PoseYaml, path: Path, name: str) -> None:
        self.yaml = yaml
        self.builder = Builder(name, path)
        self.origin = 0
        names = yaml.classes
        instances = [key for key, name in names.items() if name.lower() == "person"]
        self.classes = set(instances) if instances and len(names) > 1 else None

    def count_orphans(self, folder: Path, used: set[Path]) -> None:
        """Label files below a folder that belong to no image."""
        for path in sorted(folder.rglob("*.txt")):
            if path not in used and path.name != "classes.txt":
                self.builder.result.leave_out(NO_IMAGE, path.name)

    def read(self, labels: dict[Path, Path], images: Path | None) -> LabelSet:
        """Reads image -> label file."""
        result, without, tagged = self.builder.result, 0, 0
        headers = orientations(list(labels))
        for (image, text), header in zip(labels.items(), headers, strict=True):
            if header is None:
                result.leave_out(UNREADABLE if image.is_file() else MISSING, image.name)
                continue
            tagged += header.tag != 1
            size = header.upright
            number = self.builder.image(image, *size)
            if not text.is_file():
                without += 1
                continue
            result.files += 1
            for line, values in _lines(text):
                self._instance(number, size, values, f"'{text}', line {line}")
        result.notes += self._notes(without, tagged)
        return self.builder.finish(self.yaml.keypoints, images)

    def _notes(self, without: int, tagged: int) -> list[str]:
        notes = [] if self.yaml.named else [ASSUMED]
        if self.origin:
            notes.append(
                f"labels have no visibility: {self.origin} points at (0, 0) are not labelled"
            )
        if without:
            notes.append(f"{without} images without a label file show nobody")
        if tagged:
            notes.append(
                f"{tagged} images have an EXIF orientation tag; as YOLO's labels have no image"
                " size, they are assumed to be for the upright images"
            )
        return notes

    def _instance(
        self, image: int, size: tuple[int, int], values: Sequence[float], where: str
    ) -> None:
        names, dims = self.yaml.keypoints, self.yaml.dims
        if len(values) != 5 + len(names) * dims:
            raise HeatposeError(
                f"{where} has {len(values)} numbers, but kpt_shape: [{len(names)}, {dims}] needs "
                f"{5 + len(names) * dims}: class, four of the box, {dims} for each keypoint"
                f"{_hint(values, names)}."
            )
        if self.classes is not None and int(values[0]) not in self.classes:
            self.builder.result.leave_out(OTHER_CLASS, where)
            return
        places = [*values[1:5], *(v for i, v in enumerate(values[5:]) if i % dims < 2)]
        if not all(-WELL_OUTSIDE <= place <= 1 + WELL_OUTSIDE for place in places):
            raise HeatposeError(
                f"{where} has numbers that are not fractions of the image's width and height "
                "(0 to 1)."
            )
        points = [
            self._point(values[i : i + dims], size, where) for i in range(5, len(values), dims)
        ]
        self.builder.instance(image, _box(values[1:5], size), dict(zip(names, points, strict=True)))

    def _point(self, values: Sequence[float], size: tuple[int, int], where: str) -> Point:
        x, y = values[0] * size[0], values[1] * size[1]
        if len(values) == 3:
            if values[2] not in (0, 1, 2):
                raise HeatposeError(
                    f"{where} has visibility {values[2]:g}; it must be 0 (not labelled), "
                    "1 (hidden) or 2."
                )
            return x, y, int(values[2])
        if (values[0], values[1]) == (0, 0) or min(values) < 0:
            self.origin += 1
            return 0.0, 0.0, 0
        return x, y, 2


def _hint(values: Sequence[float], names: Sequence[str]) -> str:
    other = next((d for d in (2, 3) if len(values) == 5 + len(names) * d), None)
    return f" (kpt_shape: [{len(names)}, {other}] would fit)" if other else ""


def _box(values: Sequence[float], size: tuple[int, int]) -> Box:
    x, y, w, h = values
    return (x - w / 2) * size[0], (y - h / 2) * size[1], w * size[0], h * size[1]


def _lines(path: Path) -> list[tuple[int, list[float]]]:
    """Line number and numbers of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise HeatposeError(
            f"'{path}' is not a text file; remove it or label its image again."
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) for value in values):
            raise HeatposeError(f"'{path}', line {number} has something else than numbers.")
        found.append((number, values))
    return found
