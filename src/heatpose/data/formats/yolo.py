"""Ultralytics YOLO pose: a `data.yaml`, a text file of normalised numbers for each image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.data.formats.base import (
    Box,
    Builder,
    LabelSet,
    Point,
    Request,
    image_files,
    orientations,
)
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from heatpose.utils.image_files import SUFFIXES

YAML = (".yaml", ".yml")
MOST_BYTES = 1_000_000
"""Maximum size of a YAML file; real ones have some kilobytes."""
MOST_KEYPOINTS = 1000
PARTS = ("train", "val", "test")
ASSUMED = "keypoints without names: COCO's 17 in COCO's order are assumed"


@dataclass(frozen=True)
class PoseYaml:
    """Content of a `data.yaml`.

    Attributes:
        path: The file.
        roots: Folders that its relative paths may start from, in order of preference.
        keypoints: Names, one for each keypoint of a line.
        named: False if the names are assumed.
        dims: Numbers for each keypoint: 2 (x, y) or 3 (x, y, visibility).
        parts: "train", "val" or "test" -> its entries: folders, image lists or images.
        classes: Class index -> name.
    """

    path: Path
    roots: tuple[Path, ...]
    keypoints: tuple[str, ...]
    named: bool
    dims: int
    parts: Mapping[str, tuple[str, ...]]
    classes: Mapping[int, str]

    def files(self, part: str) -> tuple[list[Path], list[Path]]:
        """Image files of a part in the order of the file, and the folders among its entries.

        Raises:
            HeatposeError: An entry is neither a folder, nor a list, nor an image.
        """
        found: list[Path] = []
        folders = []
        for entry in self.parts[part]:
            place = self.located(entry)
            if place.is_dir():
                folders.append(place)
                found += image_files(place)
            elif place.suffix.lower() == ".txt":
                found += self._listed(place)
            elif place.suffix.lower() in SUFFIXES:
                found.append(place)
            else:
                raise HeatposeError(
                    f"'{self.path}', {part}: '{place}' is neither a folder, nor a .txt list, "
                    "nor an image."
                )
        return list(dict.fromkeys(found)), folders

    def located(self, entry: str) -> Path:
        """Resolves a path of the file.

        Roboflow writes '../train/images' although the folder is beside the file, so the entry
        without '../' is looked for as well, as Ultralytics does.

        Raises:
            HeatposeError: The path does not exist.
        """
        slashes = entry.replace("\\", "/")
        names = dict.fromkeys((entry, slashes, slashes.removeprefix("../")))
        tried = [root / name for root in self.roots for name in names]
        for place in tried:
            if _exists(place):
                return place
        raise HeatposeError(
            f"'{self.path}' names '{entry}', which is not at '{tried[0]}'; correct 'path:' or "
            "the entry."
        )

    def _listed(self, place: Path) -> list[Path]:
        lines = [line.strip() for line in _text(place).splitlines()]
        bases = (place.parent, *self.roots)
        return [_first(bases, line) for line in lines if line]


def _first(bases: Iterable[Path], name: str) -> Path:
    names = dict.fromkeys((name, name.replace("\\", "/")))
    places = [base / one for base in bases for one in names]
    return next((place for place in places if _exists(place)), places[0])


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # an impossible name
        return False


def find_yaml(folder: Path, upwards: int = 0) -> Path | None:
    """Finds the YAML with `kpt_shape` in a folder, or in the nearest of some folders above it.

    Args:
        folder: Where the search begins.
        upwards: Number of folders above it to search.

    Raises:
        HeatposeError: There are several, none of them called data.yaml.
    """
    for place in [folder, *folder.absolute().parents][: upwards + 1]:
        try:
            files = sorted(path for path in place.iterdir() if path.suffix.lower() in YAML)
        except OSError:
            continue
        found = [path for path in files if _mentions(path)]
        best = [path for path in found if path.stem == "data"] or found
        if len(best) > 1:
            raise HeatposeError(
                f"'{place}' has several YAML files with kpt_shape: {[path.name for path in best]}; "
                "give the path of the one that is meant."
            )
        if best:
            return best[0]
    return None


def _mentions(path: Path) -> bool:
    try:
        return path.stat().st_size <= MOST_BYTES and b"kpt_shape" in path.read_bytes()
    except OSError:
        return False


def read_yaml(path: Path) -> PoseYaml:
    """Reads and checks a `data.yaml`.

    Raises:
        HeatposeError: It cannot be read, or does not describe keypoints.
    """
    import yaml

    try:
        if path.stat().st_size > MOST_BYTES:
            raise HeatposeError(f"'{path}' is too large for the data.yaml of a data set.")
        content = yaml.safe_load(_text(path))
    except OSError as error:
        raise HeatposeError(
            f"'{path}' cannot be read ({error.strerror}); give another file."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HeatposeError(f"'{path}' is not a YAML file ({reason}); give a data.yaml.") from error
    if not isinstance(content, dict) or "kpt_shape" not in content:
        raise HeatposeError(
            f"'{path}' has no kpt_shape; add it, such as 'kpt_shape: [17, 3]', for a pose data set."
        )
    count, dims = _shape(path, content["kpt_shape"])
    names, named = _names(path, content, count)
    return PoseYaml(
        path,
        _roots(path, content.get("path")),
        names,
        named,
        dims,
        _parts_of(path, content),
        _classes(path, content.get("names")),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise HeatposeError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error


def _shape(path: Path, shape: Any) -> tuple[int, int]:
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not whole or not 1 <= shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise HeatposeError(
            f"'{path}': kpt_shape must be [keypoints, 2] or [keypoints, 3], such as [17, 3]."
        )
    return shape[0], shape[1]


def _roots(path: Path, given: Any) -> tuple[Path, ...]:
    beside = path.parent
    if not isinstance(given, str) or not given:
        return (beside,)
    named = dict.fromkeys((given, given.replace("\\", "/")))
    return (*(place / name for name in named for place in (beside, Path())), beside)


def _parts_of(path: Path, content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    parts: dict[str, tuple[str, ...]] = {}
    for part in PARTS:
        entry = content.get(part)
        entries = entry if isinstance(entry, list) else [entry] if entry else []
        if not all(isinstance(one, str) and one for one in entries):
            raise HeatposeError(f"'{path}', {part}: must be a path or a list of paths.")
        if entries:
            parts[part] = tuple(entries)
    if not parts:
        raise HeatposeError(f"'{path}' has no train, val or test entry; add 'train: images/train'.")
    return parts


def _classes(path: Path, names: Any) -> dict[int, str]:
    entries = dict(enumerate(names)) if isinstance(names, list) else names or {}
    if not isinstance(entries, dict) or not all(isinstance(key, int) for key in entries):
        raise HeatposeError(f"'{path}': names must be a list of names, or index: name.")
    return {key: name if isinstance(name, str) else "" for key, name in entries.items()}


def _names(path: Path, content: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], bool]:
    given = content.get("kpt_names")
    given = list(given.values()) if isinstance(given, dict) else given
    if given is not None:
        sets = (
            given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
        )
        if not all(isinstance(s, list) and all(isinstance(n, str) for n in s) for s in sets):
            raise HeatposeError(f"'{path}': kpt_names must be 'kpt_names: {{0: [nose, ...]}}'.")
        given = sets[0]
        if any(names != given for names in sets):
            raise HeatposeError(f"'{path}': kpt_names differ between classes; one set can be used.")
        if len(given) != count or len(set(given)) != count:
            raise HeatposeError(
                f"'{path}': kpt_names has {len(set(given))} different names, "
                f"kpt_shape {count} keypoints."
            )
        return tuple(given), True
    if count != len(COCO_17) or not _fits_coco(content.get("flip_idx"), count):
        which = (
            f"{count} keypoints" if count != len(COCO_17) else "a flip_idx that is not COCO's order"
        )
        raise HeatposeError(
            f"'{path}' has {which} and no names for them; add 'kpt_names: {{0: [head, ...]}}' in "
            "the order of the label lines, with the names of your skeleton YAML."
        )
    return tuple(COCO_17.keypoints), False


def _fits_coco(flip: Any, count: int) -> bool:
    """Whether flip_idx agrees with COCO's order; a missing or trivial one does."""
    return flip in (None, [], list(range(count)), COCO_17.flip_order)


NAME = "Ultralytics YOLO pose"
UPWARDS = 3
"""Number of folders above the label files in which a `data.yaml` is looked for."""
WELL_OUTSIDE = 0.5
"""Distance outside the image, as a fraction, from which on a number is in pixels."""
UNREADABLE = "images that cannot be read"
MISSING = "images that are listed but missing"
NO_IMAGE = "label files without an image"
OTHER_CLASS = "instances of other classes than person"


def recognise(request: Request) -> bool:
    """Whether the path is a YAML file, or a folder of .txt files."""
    if request.path.is_dir():
        return next(request.path.glob("*.txt"), None) is not None
    return request.path.suffix.lower() in YAML


def read(request: Request) -> LabelSet:
    """Reads one part of a data set, or the label files of a folder.

    Raises:
        HeatposeError: The YAML, the part or a line is invalid.
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
    """The folder that the file names of a part are relative to.

    Raises:
        HeatposeError: The part has no image.
    """
    images, folders = yaml.files(part)
    if len(folders) == len(yaml.parts[part]) == 1:
        return folders[0]
    if not images:
        raise HeatposeError(f"'{yaml.path}', {part}: there is no image; correct the entry.")
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
    """The error for label files without a description of their keypoints."""
    return HeatposeError(
        f"'{folder}' has .txt labels but no data.yaml beside or above it; write one with "
        "'train: images', 'kpt_shape: [17, 3]' and 'kpt_names: {0: [nose, ...]}'."
    )


def _read_folder(request: Request) -> LabelSet:
    """Reads the .txt files of a folder; the images of `labels/` are in `images/`, unless given."""
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
            notes.append(f"{without} images without a label file have no instances")
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
    """Line number and values of every line that is not empty."""
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
            raise HeatposeError(
                f"'{path}', line {number} has a value that is not a finite number; correct it."
            )
        found.append((number, values))
    return found
