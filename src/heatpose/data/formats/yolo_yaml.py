"""Reads the `data.yaml` of an Ultralytics pose data set: keypoints, parts, image files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.data.formats.image_files import image_files
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from heatpose.utils.image_files import SUFFIXES

YAML = (".yaml", ".yml")
MOST_BYTES = 1_000_000
"""Of a YAML file; real ones have some kilobytes."""
MOST_KEYPOINTS = 1000
PARTS = ("train", "val", "test")
ASSUMED = "keypoints without names: COCO's 17 in COCO's order are assumed"


@dataclass(frozen=True)
class PoseYaml:
    """What a `data.yaml` states.

    Attributes:
        path: The file.
        roots: Folders that its relative paths may start from, the likeliest first.
        keypoints: Names, one for each keypoint of a line.
        named: False where the names are assumed.
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
        """Where a path of the file leads.

        Roboflow writes '../train/images' though the folder is beside the file, so the entry
        without '../' is looked for as well, as Ultralytics does.

        Raises:
            HeatposeError: Nothing is there.
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
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_yaml(folder: Path, upwards: int = 0) -> Path | None:
    """The YAML with `kpt_shape` in a folder, or in the nearest of some folders above it.

    Raises:
        HeatposeError: There are several and none is called data.yaml.
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
        _parts(path, content),
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


def _parts(path: Path, content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
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
    """A missing flip_idx, or one that swaps nothing, does not tell the order."""
    return flip in (None, [], list(range(count)), COCO_17.flip_order)
