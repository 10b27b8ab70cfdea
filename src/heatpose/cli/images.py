"""Commands on images and data sets: `heatpose predict`, `data` and `label`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.cli.options import (
    MODEL_SUFFIXES,
    Decode,
    DecodeChoice,
    JsonOut,
    NormalisationText,
    Resolution,
    Sampling,
    SkeletonFile,
    Split,
    Threads,
    model_names,
    print_reading,
    read_normalisation,
    read_skeleton,
)
from heatpose.errors import HeatposeError
from heatpose.utils.files import require_writable_files, write_image, write_json_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heatpose.data.coco import CocoLabels
    from heatpose.pose.skeleton import Skeleton


def predict(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] SOURCE...",
            help=(
                "A checkpoint, ONNX or TFLite file or the name of a released network (the default"
                " one without); then images, videos, folders of both, and numbers of cameras."
            ),
            autocompletion=model_names,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for drawings and for the keypoints as COCO results.")
    ] = Path("predictions"),
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Second model, drawn beside the first, with distances.",
            autocompletion=model_names,
        ),
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(help="As in training by default, bilinear if that is unknown."),
    ] = None,
    decode: DecodeChoice = Decode.refined,
    skeleton: SkeletonFile = None,
    normalisation: NormalisationText = None,
    resolution: Resolution = None,
    threads: Threads = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help=(
                "Keypoints with a lower score are not drawn; by default the value that the model's"
                " bundle states, else 0.2."
            ),
            min=0,
            max=1,
        ),
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write drawings as well as keypoints.")] = True,
    smooth: Annotated[bool, typer.Option(help="Videos: filter the keypoints over time.")] = True,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop", help="Videos: crop each frame around the person of the previous one."
        ),
    ] = False,
    frames: Annotated[
        bool,
        typer.Option("--frames", help="Videos: write the frames as images instead of an .mp4."),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Videos: maximum number of frames of each; a camera ends with Ctrl-C otherwise.",
            min=1,
        ),
    ] = None,
) -> None:
    """Draw the poses of images, videos, folders and cameras."""
    from heatpose.bundles.facts import ScoreThreshold, read_manifest
    from heatpose.bundles.released import resolve
    from heatpose.predict import Drawing, VideoOptions, predict_sources
    from heatpose.predict.estimator import Estimator
    from heatpose.runners import open_runner
    from heatpose.runners.reading import check_runs, reading_of

    given, values = read_skeleton(skeleton), read_normalisation(normalisation)
    model, sources = _model_and_sources(arguments)
    models = [model] if beside is None else [model, resolve(beside)]
    for path in models:
        check_runs(path, resolution)
    estimators = []
    for path in models:
        runner = open_runner(path, threads=threads, size=resolution, normalisation=values)
        reading = reading_of(runner, given)
        print_reading(reading)
        chosen = None if sampling is None else str(sampling)
        estimator = Estimator.of(runner, reading.skeleton, str(decode), chosen, reading.assumed)
        estimators.append(estimator)
    if threshold is None:
        threshold = (read_manifest(model).threshold or ScoreThreshold()).value
    if draw:
        typer.echo(f"Keypoints with a score below {threshold:g} are not drawn (--threshold).")
    options = VideoOptions(smooth, crop, frames, limit)
    typer.echo(predict_sources(sources, out, Drawing(estimators, threshold, draw), options))


def _is_model(argument: Path) -> bool:
    from heatpose.bundles.released import released

    known = argument.suffix.lower() in MODEL_SUFFIXES
    return known or (not argument.exists() and argument.parts[0] in released())


def _model_and_sources(arguments: list[Path]) -> tuple[Path, list[Path]]:
    """The first argument where it is a model, else the default released network; and the rest."""
    from heatpose.bundles.released import DEFAULT_ARTEFACT, default_model, resolve
    from heatpose.predict.files import is_source

    first, *rest = arguments
    if is_source(first):
        if wrong := [given for given in rest if _is_model(given)]:
            raise typer.BadParameter(f"'{wrong[0]}' is a model; name it before the images")
        name, model = default_model()
        typer.echo(f"No model is given: released network '{name}' ({DEFAULT_ARTEFACT}) is used.")
        return model, arguments
    model = resolve(first)
    if model.is_file() and model.suffix.lower() not in MODEL_SUFFIXES:
        raise HeatposeError(
            f"'{first}' is neither an image, a video nor a model ({', '.join(MODEL_SUFFIXES)});"
            " give one of these."
        )
    if not rest:
        raise typer.BadParameter(f"name images, videos, folders or cameras after '{first}'")
    return model, rest


def data(
    folder: Annotated[
        Path,
        typer.Argument(
            help=(
                "A data set: a folder in COCO 2017 layout, with one person_keypoints_*.json and its"
                " images, or an export."
            )
        ),
    ],
    split: Annotated[
        Split, typer.Option(help="Part of the data set, if the folder has several.")
    ] = Split.train,
    skeleton: Annotated[
        Path | None,
        typer.Option(help="coco17, st13 or a skeleton YAML; by default coco17, or as labelled."),
    ] = None,
    files: Annotated[
        bool,
        typer.Option("--files", help="Also decode every image: finds missing and damaged ones."),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of labels here (PNG or JPEG).")
    ] = None,
    augmented: Annotated[
        Path | None,
        typer.Option(
            help="Write a contact sheet of augmented training samples here (PNG or JPEG)."
        ),
    ] = None,
    resolution: Annotated[
        int, typer.Option(help="Side of the network's input, for --augmented.")
    ] = 192,
    coco: Annotated[
        Path | None,
        typer.Option(
            help="Write the labels here as COCO keypoint JSON, from any supported format."
        ),
    ] = None,
    label_studio: Annotated[
        Path | None,
        typer.Option(
            help="Write the labels here as Label Studio tasks (.json), to correct them there."
        ),
    ] = None,
    image_prefix: Annotated[
        str, typer.Option(help="Prefix of the image names in Label Studio.")
    ] = "/data/local-files/?d=",
    json_out: JsonOut = None,
) -> None:
    """Audit a data set: kept and dropped instances with reasons, and their statistics."""
    from rich.console import Console

    from heatpose.data.coco import instances
    from heatpose.data.contact_sheet import augmented_sheet_of, contact_sheet_of
    from heatpose.data.report import audit_report, print_audit
    from heatpose.data.selection import TrainingRules
    from heatpose.data.sources import CocoSource, find_part, labels_of
    from heatpose.pose.preprocessing import check_resolution
    from heatpose.pose.skeleton import for_labels

    require_writable_files(json_out, sheet, augmented, coco, label_studio)
    check_resolution(resolution)
    part = find_part(folder, str(split))
    labels = labels_of(part)
    chosen = read_skeleton(skeleton) or for_labels(labels.keypoint_names)
    rules = TrainingRules(size=resolution) if split is Split.train else None
    scored = CocoSource(str(folder)).evaluation(chosen) or () if rules else ()
    report = audit_report(labels, part.images, chosen, files, rules, scored)
    print_audit(report, Console())
    try:
        chosen.require_flip_pairs("augment.geometric.mirror=0")
    except HeatposeError as error:  # a training without mirroring takes such labels
        typer.echo(f"warning: a training refuses this skeleton. {error}", err=True)
    if sheet is not None:
        write_image(sheet, contact_sheet_of(instances(labels, part.images, chosen)[0], chosen))
    if augmented is not None:
        write_image(
            augmented,
            augmented_sheet_of(instances(labels, part.images, chosen)[0], chosen, resolution),
        )
    write_json_output(json_out, report.to_json())
    if coco is not None:
        write_json_output(coco, labels.source.content)
        typer.echo(
            f"{coco} has the labels; its file names are relative to '{labels.source.folder}'"
            " (--images)."
        )
    if label_studio is not None:
        _write_tasks(label_studio, labels, image_prefix)


def _write_tasks(path: Path, labels: CocoLabels, prefix: str) -> None:
    """Writes tasks for Label Studio, and the labelling interface beside them."""
    from heatpose.data.formats.label_studio import interface, to_tasks

    if path.suffix.lower() == ".xml":
        raise HeatposeError(
            f"'{path}' is the name of the labelling interface; give --label-studio a .json file."
        )
    write_json_output(
        path, to_tasks(labels.images, labels.annotations, labels.keypoint_names, prefix)
    )
    path.with_suffix(".xml").write_text(interface(labels.keypoint_names), encoding="utf-8")
    typer.echo(
        f"{path} has the tasks, {path.with_suffix('.xml')} the labelling interface for Label"
        " Studio."
    )


NO_TEACHER = (
    "No teacher is given; give --teacher MODEL, a .ckpt, .onnx or .tflite pose model that is "
    "larger than the network to be trained, such as MoveNet Thunder."
)


Photos = Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")]
Out = Annotated[Path, typer.Option(help="COCO keypoint JSON to write.")]
Teacher = Annotated[
    Path | None,
    typer.Option(
        help="Teacher model for the labels: checkpoint, ONNX or TFLite.",
        autocompletion=model_names,
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Bounding boxes: a COCO JSON, or a folder of Pascal VOC XML. Without them the teacher "
            "labels one person per image."
        )
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Write a contact sheet of the labels here (PNG or JPEG)."),
]
MinScore = Annotated[
    float,
    typer.Option(help="Minimum score of a keypoint in the image and in its mirror image."),
]
MaxDistance = Annotated[
    float,
    typer.Option(help="Maximum distance between the two, as a fraction of the crop's side."),
]
MinKeypoints = Annotated[int, typer.Option(help="Minimum number of such keypoints per instance.")]
MinSide = Annotated[
    float,
    typer.Option(help="Minimum square root of the box area, in pixels."),
]
MaxSecondPeak = Annotated[
    float,
    typer.Option(
        help=(
            "Maximum score of a second peak in a keypoint's heatmap, as a share of the first: "
            "other people. 1 accepts any. For teachers that give heatmaps."
        )
    ),
]
Shrinking = Annotated[
    Sampling | None,
    typer.Option(help="As in training by default, bilinear if that is unknown."),
]


def label(
    images: Photos,
    out: Out,
    teacher: Teacher = None,
    boxes: Boxes = None,
    sheet: Sheet = None,
    min_score: MinScore = 0.3,
    max_distance: MaxDistance = 0.04,
    min_keypoints: MinKeypoints = 4,
    min_side: MinSide = 36.0,
    max_second_peak: MaxSecondPeak = 0.5,
    sampling: Shrinking = None,
    skeleton: SkeletonFile = None,
    normalisation: NormalisationText = None,
    resolution: Resolution = None,
    threads: Threads = None,
) -> None:
    """Label images by a teacher model: COCO keypoints for `train`, without manual annotation."""
    from rich.console import Console

    from heatpose.bundles.released import resolve
    from heatpose.label import LabelJob, LabelSettings, label_images
    from heatpose.label.run import print_counts
    from heatpose.predict.estimator import Estimator
    from heatpose.runners import open_runner
    from heatpose.runners.reading import check_runs, reading_of

    settings = LabelSettings(min_score, max_distance, min_keypoints, min_side, max_second_peak)
    if teacher is None:
        raise HeatposeError(NO_TEACHER)
    require_writable_files(out, sheet)
    teacher = resolve(teacher)
    check_runs(teacher, resolution)
    given, values = read_skeleton(skeleton), read_normalisation(normalisation)
    runner = open_runner(teacher, threads=threads, size=resolution, normalisation=values)
    reading = reading_of(runner, given)
    print_reading(reading)
    chosen = reading.skeleton
    estimator = Estimator.of(runner, chosen, sampling=None if sampling is None else str(sampling))
    counts = label_images(LabelJob(images, out, estimator, settings, boxes))
    print_counts(counts, Console())
    if not counts.labelled:
        raise HeatposeError(f"No image of '{images}' was labelled; '{out}' is not written.")
    if sheet is not None:
        write_image(sheet, _sheet(out, images, chosen))
    typer.echo(f"{out}: add it to a training with {_as_extra(out, images)}")


def _as_extra(annotations: Path, images: Path) -> str:
    """The override in shell syntax; Hydra needs quotes around unusual names."""
    from heatpose.entries.command_line import quote, shell

    texts = [str(path) for path in (annotations, images)]
    one, two = (t if re.fullmatch(r"[\w./-]+", t, re.ASCII) else quote(t) for t in texts)
    return f"data.extra={shell(f'[{{annotations: {one}, images: {two}}}]')}"


def _sheet(annotations: Path, images: Path, skeleton: Skeleton) -> NDArray[np.uint8]:
    from heatpose.data.coco import instances, read_labels
    from heatpose.data.contact_sheet import contact_sheet_of

    labels = read_labels(annotations)
    return contact_sheet_of(instances(labels, images, skeleton)[0], skeleton)
