"""Which points belong to one instance, for formats that list points and boxes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from heatpose.data.formats.base import Box, Point

NO_OWNER = "keypoints without a group that lie in no box or in several"
TWICE = "keypoints that an instance has twice"


@dataclass(frozen=True)
class Mark:
    """One labelled point.

    Attributes:
        name: Of the keypoint.
        point: Position and visibility.
        owner: Key of its instance; None where the file does not state it.
    """

    name: str
    point: Point
    owner: str | None = None


@dataclass
class Instance:
    """Box, where there is one, and keypoint name -> point."""

    box: Box | None = None
    points: dict[str, Point] = field(default_factory=dict)


def group(
    boxes: Mapping[str, Box], marks: Sequence[Mark], leave_out: Callable[[str], None]
) -> list[Instance]:
    """Puts the points of one image into instances.

    A point belongs to the instance that it names. One that names none belongs to the only instance
    of its image, or to the only box that it lies in.

    Args:
        boxes: Key of an instance -> its box.
        marks: The points.
        leave_out: Called with a reason for each point that belongs to no instance.

    Returns:
        The instances, boxes first, in the order of the file.
    """
    found = {key: Instance(box) for key, box in boxes.items()}
    for mark in marks:
        if mark.owner is not None:
            found.setdefault(mark.owner, Instance())
    if not found and marks:
        found[""] = Instance()
    for mark in marks:
        key = mark.owner if mark.owner is not None else _owner(mark.point, found)
        if key is None:
            leave_out(NO_OWNER)
        elif mark.name in found[key].points:
            leave_out(TWICE)
        else:
            found[key].points[mark.name] = mark.point
    return list(found.values())


def _owner(point: Point, instances: Mapping[str, Instance]) -> str | None:
    if len(instances) == 1:
        return next(iter(instances))
    x, y, _ = point
    around = [
        key for key, one in instances.items() if one.box is not None and _inside(x, y, one.box)
    ]
    return around[0] if len(around) == 1 else None


def _inside(x: float, y: float, box: Box) -> bool:
    return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]
