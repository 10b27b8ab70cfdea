"""The report of `heatpose data`: instances kept and dropped, their statistics, image files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heatpose.data.coco import SEVERAL, CocoLabels, benchmark_instances
from heatpose.data.sample import Audit, Person
from heatpose.data.selection import TrainingRules, explain_empty, split_instances
from heatpose.data.sources import training_instances
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import AS_LABELLED, Skeleton
from heatpose.utils.image_files import (
    UNREADABLE,
    Orientation,
    is_transparent,
    open_image,
    orientation_of,
    rgb_bytes,
    sixteen_bits,
    size_problem,
)
from heatpose.utils.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console
    from rich.table import Table


SIZE_EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7)
"""Lower edges of the histogram of box area over image area; the last bin is open."""


@dataclass
class Selection:
    """Result of one selection rule.

    Attributes:
        kept: Number of instances kept.
        dropped: Reason -> number of instances.
        examples: Reason -> a few image ids.
    """

    kept: int
    dropped: dict[str, int]
    examples: dict[str, list[int]]

    @classmethod
    def of(cls, audit: Audit) -> Selection:
        """The result that an audit has counted."""
        examples = {reason: list(dict.fromkeys(ids)) for reason, ids in audit.examples.items()}
        return cls(audit.kept, dict(audit.dropped), examples)


@dataclass
class AuditReport:
    """Statistics of a data set. The fields from `outside` on describe instances kept for training.

    Attributes:
        path: The label file.
        skeleton: Name of the skeleton that the labels were converted to.
        images: Images listed.
        annotations: Person annotations.
        images_by_people: "none", "one", "several" -> number of images with so many annotations.
        assumed: What was filled in, corrected or ignored in the labels -> count.
        training: All usable instances.
        benchmark: The selection of the published single-person benchmark.
        trained: Those of `training` that are trained on or held out with the default settings of
            `train.py`; None for an evaluation part.
        held_out: Number of `trained` that are held out for model selection.
        refused: Why `train.py` would refuse the data, and what to set; None if it would train.
        files: The image files.
        outside: Labelled keypoints that lie outside their image.
        labelled: Keypoint name -> number of instances with it labelled.
        labelled_per_person: Entry n is the number of instances with n labelled keypoints.
        size_edges: Lower edges of the histogram of relative box area.
        sizes: Number of instances in each bin.
        labels: Format of the labels, and what was assumed and left out when they were read.
    """

    path: str
    skeleton: str
    images: int
    annotations: int
    images_by_people: dict[str, int]
    assumed: dict[str, int]
    training: Selection
    benchmark: Selection
    trained: Selection | None
    held_out: int
    refused: str | None
    files: ImageCheck
    outside: int = 0
    labelled: dict[str, int] = field(default_factory=dict)
    labelled_per_person: list[int] = field(default_factory=list)
    size_edges: list[float] = field(default_factory=lambda: list(SIZE_EDGES))
    sizes: list[int] = field(default_factory=lambda: [0] * len(SIZE_EDGES))
    labels: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def audit_report(
    labels: CocoLabels,
    images: str | Path,
    skeleton: Skeleton,
    check_files: bool,
    rules: TrainingRules | None = None,
    scored: Sequence[Person] = (),
) -> AuditReport:
    """Audits a label file and its images.

    Args:
        labels: From `read_labels`.
        images: Folder of the image files.
        skeleton: The keypoints are converted to it.
        check_files: Whether to decode every image of a kept instance (with a progress bar), else
            only to check that the files exist.
        rules: Of the training, for a training part.
        scored: Instances of the evaluation part; their images are not trained on.
    """
    kept, training = training_instances(labels, Path(images), skeleton, scored)
    per_image = Counter(int(a["image_id"]) for a in labels.annotations)
    by_people = Counter(min(per_image[image_id], 2) for image_id in labels.images)
    split = None if rules is None else split_instances(kept, rules)
    refused = None if split is None or rules is None else explain_empty(split, kept, rules)
    used = dict.fromkeys(person.image_id for person in kept) if check_files else ()
    report = AuditReport(
        path=str(labels.path),
        skeleton=skeleton.name,
        images=len(labels.images),
        annotations=len(labels.annotations),
        images_by_people={"none": by_people[0], "one": by_people[1], "several": by_people[2]},
        assumed=dict(training.assumed),
        training=Selection.of(training),
        trained=None if split is None else Selection.of(split.audit),
        held_out=0 if split is None else len(split.validation),
        refused=refused,
        benchmark=_benchmark(labels, images, skeleton, training),
        files=check_images(labels.images, Path(images), used),
        labels=labels.source.record(),
    )
    report.files.notes = training.readings.findings() | report.files.notes
    if kept:
        _describe(report, kept, skeleton)
    return report


def _benchmark(
    labels: CocoLabels, images: str | Path, skeleton: Skeleton, training: Audit
) -> Selection:
    try:
        return Selection.of(benchmark_instances(labels, images, skeleton)[1])
    except HeatposeError:  # no image qualifies
        selection = Selection.of(training)
        return Selection(0, {**selection.dropped, SEVERAL: training.kept}, selection.examples)


def _describe(report: AuditReport, kept: Sequence[Person], skeleton: Skeleton) -> None:
    """Fills in the statistics of the kept instances."""
    labelled = np.stack([person.labelled for person in kept])
    points = np.stack([person.keypoints for person in kept])
    size = np.array([(person.width, person.height) for person in kept], np.float64)
    boxes = np.array([person.box[2:] for person in kept], np.float64)
    outside = ((points < 0) | (points > size[:, None, :])).any(-1)
    report.outside = int((outside & labelled).sum())
    report.labelled = dict(zip(skeleton.keypoints, labelled.sum(0).tolist(), strict=True))
    report.labelled_per_person = np.bincount(labelled.sum(1), minlength=len(skeleton) + 1).tolist()
    classes = np.searchsorted(SIZE_EDGES, (boxes / size).prod(1), side="right") - 1
    report.sizes = np.bincount(classes, minlength=len(SIZE_EDGES)).tolist()


def print_audit(report: AuditReport, console: Console) -> None:
    """Prints the report as tables."""
    # Imported here, as everywhere below: only printing needs it.
    from rich.markup import escape

    by_people = report.images_by_people
    console.print(
        f"[bold]{escape(report.path)}[/bold] {'' if report.skeleton == AS_LABELLED else 'as '}"
        f"{escape(report.skeleton)}:"
        f" {report.annotations} person annotations on {report.images} images"
        f" ({by_people['one']} with one, {by_people['several']} with several,"
        f" {by_people['none']} with none)"
    )
    console.print(_selections(report))
    for what, count in report.assumed.items():
        console.print(f"assumed: {what} ({count})")
    if report.refused is not None:
        console.print(escape(f"train.py as it is: {report.refused}"))
    console.print(_files(report.files))
    kept = report.training.kept
    if kept:
        console.print(_bars("Labelled keypoints", report.labelled, kept))
        console.print(f"{report.outside} labelled keypoints lie outside their image")
        counts = {
            str(n): instances for n, instances in enumerate(report.labelled_per_person) if instances
        }
        console.print(_bars("Instances by number of labelled keypoints", counts, kept))
        sizes = dict(zip(_size_names(report.size_edges), report.sizes, strict=True))
        console.print(_bars("Instances by box area over image area", sizes, kept))


def _selections(report: AuditReport) -> Table:
    from rich.table import Table

    table = Table(
        "selection",
        "instances",
        "image ids, for example",
        title="Kept and dropped",
        title_justify="left",
    )
    names = {
        "training: every usable instance": report.training,
        f"train.py as it is: trained on, or held out ({report.held_out})": report.trained,
        "benchmark: one person per image": report.benchmark,
    }
    for name, selection in names.items():
        if selection is None:
            continue
        table.add_section()
        table.add_row(f"[bold]{name}[/bold]", f"[bold]{selection.kept}[/bold]", "")
        for reason, count in selection.dropped.items():
            examples = ", ".join(map(str, selection.examples.get(reason, ())))
            table.add_row(f"  dropped: {reason}", str(count), examples)
    return table


def _files(check: ImageCheck) -> Table:
    from rich.markup import escape
    from rich.table import Table

    how = f"{check.listed} looked for, {check.decoded or 'none'} decoded"
    table = Table(
        "finding", "files", "for example", title=f"Image files ({how})", title_justify="left"
    )
    findings: tuple[tuple[str, Mapping[str, str]], ...] = (
        ("missing", dict.fromkeys(check.missing, "")),
        ("cannot be decoded", check.unreadable),
        ("of another size than labelled", check.wrong_size),
    )
    for name, found in findings:
        examples = "; ".join(
            f"{file} ({why})" if why else file for file, why in list(found.items())[:3]
        )
        table.add_row(name, f"[red]{len(found)}[/red]" if found else "0", escape(examples))
    for note, names in check.notes.items():
        if names:
            table.add_row(note, str(len(names)), escape("; ".join(names[:3])))
    return table


def _bars(title: str, counts: Mapping[str, int], total: int) -> Table:
    from rich.table import Table

    table = Table(
        "", "instances", "share", "", title=title, title_justify="left", show_header=False, box=None
    )
    for name, count in counts.items():
        share = count / total
        table.add_row(name, str(count), f"{100 * share:.1f} %", "█" * round(40 * share))
    return table


def _size_names(edges: Sequence[float]) -> list[str]:
    upper = [f"{100 * edge:g} %" for edge in edges[1:]]
    classes = [f"{100 * low:g} to {high}" for low, high in zip(edges[:-1], upper, strict=True)]
    return [*classes, f"over {upper[-1]}"]


@dataclass
class ImageCheck:
    """Result of the check of image files.

    Attributes:
        listed: Images in the label file.
        decoded: Images whose file was decoded; 0 if only their presence was checked.
        missing: Names of missing files.
        unreadable: Name -> why it cannot be decoded.
        wrong_size: Name -> the file's size and the labels' size.
        notes: Remarks on files without a fault -> names.
    """

    listed: int = 0
    decoded: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    wrong_size: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """True if no problem was found."""
        return not (self.missing or self.unreadable or self.wrong_size)


def check_images(
    images: Mapping[int, Mapping[str, Any]], folder: Path, decode: Iterable[int]
) -> ImageCheck:
    """Looks for all images of a label file and decodes some of them, on all cores.

    Args:
        images: Image id -> entry with `file_name`, `width`, `height`.
        folder: Folder of the files.
        decode: Ids of the images to decode.
    """
    check = ImageCheck(listed=len(images))
    names = (str(entry["file_name"]) for entry in images.values())
    # an impossible file name counts as missing: pathlib would raise
    check.missing = [name for name in names if not os.path.isfile(folder / name)]
    absent = set(check.missing)
    entries = [
        images[image_id] for image_id in decode if str(images[image_id]["file_name"]) not in absent
    ]
    if not entries:
        return check
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("images") as progress:
        files = pool.map(
            lambda entry: _decode(folder / str(entry["file_name"])), entries
        )  # Pillow decodes without the GIL
        for entry, found in progress.track(
            zip(entries, files, strict=True), total=len(entries), description="decoding"
        ):
            name, labelled = str(entry["file_name"]), (int(entry["width"]), int(entry["height"]))
            if isinstance(found, str):
                check.unreadable[name] = found
            elif not any(found.orientation.fits(labelled)):
                problem = size_problem(found.orientation, labelled)
                check.wrong_size[name] = problem.removeprefix("is ")
            for note in () if isinstance(found, str) else found.notes:
                check.notes.setdefault(note, []).append(name)
    check.decoded = len(entries)
    return check


@dataclass(frozen=True)
class _Found:
    """An image that can be decoded."""

    orientation: Orientation
    notes: list[str]


def _decode(path: Path) -> _Found | str:
    """Decodes the whole image; a message if that fails."""
    try:
        with open_image(path) as image:
            orientation = orientation_of(image)
            size = image.size
            image.draft(
                "RGB", (size[0] // 8, size[1] // 8)
            )  # a JPEG is read completely, but at an eighth of its size
            rgb_bytes(image)
            return _Found(orientation, list(_notes(image)))
    except UNREADABLE as error:
        return " ".join(str(error).replace(str(path), path.name).split())


def _notes(image: Image.Image) -> Iterator[str]:
    """Conversions of a decoded image, and unusual properties."""
    if is_transparent(image):
        yield "with transparency, composited on white"
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's: previews
        yield "with several frames or pages, of which the first is used"
    if bits := sixteen_bits(image):
        yield f"with {bits} bits a channel, scaled to 8"
        used = int(np.asarray(image).max()).bit_length()
        if used <= bits - 3:  # less than an eighth of the range
            yield f"dark: {used} of {bits} bits are used; multiply by {2 ** (bits - used)}"
