"""The `heatpose` command. Heavy modules are imported inside each command, so that `--help` answers at once.

Exit status: 0 success, 1 a failed gate or bad input (one sentence on stderr), 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatpose.errors import HeatposeError, told_in_one_sentence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heatpose.data.sample import Person
    from heatpose.evaluate import EvalReport
    from heatpose.skeleton import Skeleton

app = typer.Typer(help="Person pose for microcontrollers: score, compare, inspect and draw.", no_args_is_help=True, pretty_exceptions_enable=False)


class Sampling(StrEnum):
    """How an image is shrunk."""

    nearest = "nearest"
    bilinear = "bilinear"


class Decode(StrEnum):
    """How a keypoint is read off its heatmap."""

    argmax = "argmax"
    refined = "refined"


class Split(StrEnum):
    """Part of a COCO 2017 data set."""

    train = "train"
    val = "val"


Model = Annotated[Path, typer.Argument(help="Checkpoint (.ckpt), ONNX or TFLite file.")]
Annotations = Annotated[Path, typer.Option(help="COCO keypoint json.")]
Images = Annotated[Path, typer.Option(help="Folder of its images.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the result here as well.")]
SkeletonFile = Annotated[Path | None, typer.Option(help="Skeleton YAML, where the model file does not say what its channels are and has neither 17 nor 13.")]
Resolution = Annotated[int | None, typer.Option(help="Side of the input, for checkpoints; other files have a fixed one.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all by default.")]
ReferenceKernels = Annotated[bool, typer.Option(help="TFLite's reference kernels instead of XNNPACK: slower, bit-exact integer arithmetic.")]
SamplingChoice = Annotated[Sampling, typer.Option(help="nearest is the published protocol.")]
DecodeChoice = Annotated[Decode, typer.Option(help="argmax is the published protocol.")]


@app.command()
def evaluate(
    model: Model, annotations: Annotations, images: Images, json_out: JsonOut = None, sampling: SamplingChoice = Sampling.nearest,
    decode: DecodeChoice = Decode.argmax, skeleton: SkeletonFile = None, resolution: Resolution = None, threads: Threads = None,
    reference_kernels: ReferenceKernels = False,
) -> None:  # fmt: skip
    """Score a model by the published single-person protocol, with COCO AP beside it."""
    from heatpose.present import report_table, show

    scored = _Scoring(annotations, images, sampling, decode, skeleton)
    report = scored.of(model, resolution, threads, reference_kernels)
    show(report_table([report]))
    _write_json(json_out, report.to_json())


@app.command()
def compare(
    models: Annotated[list[Path], typer.Argument(help="Two or more models; the first is what the others are compared with.")],
    annotations: Annotations, images: Images, json_out: JsonOut = None, sampling: SamplingChoice = Sampling.nearest,
    decode: DecodeChoice = Decode.argmax, skeleton: SkeletonFile = None, resolution: Resolution = None, threads: Threads = None,
    reference_kernels: ReferenceKernels = False,
) -> None:  # fmt: skip
    """Score several models on the same images; differences with a paired bootstrap interval."""
    from heatpose.evaluate import paired_difference
    from heatpose.present import comparison_table, show

    if len(models) < 2:
        raise typer.BadParameter("give at least two models")
    scored = _Scoring(annotations, images, sampling, decode, skeleton)
    reports = [scored.of(model, resolution, threads, reference_kernels) for model in models]
    differences = [paired_difference(report, reports[0]) for report in reports[1:]]
    show(comparison_table(reports, differences))
    against = [{"model": r.model, "mean": d.mean, "low": d.low, "high": d.high} for r, d in zip(reports[1:], differences, strict=True)]
    _write_json(json_out, {"reports": [report.to_json() for report in reports], "difference_from_first": against})


@app.command()
def inspect(model: Model, json_out: JsonOut = None) -> None:
    """Say what a model file is: operators, number formats, sizes, and what is wrong with it for an NPU."""
    from heatpose.present import inspection_tables, show

    facts = _inspection(model)
    for table in inspection_tables(facts):
        show(table)
    _write_json(json_out, facts)


@app.command()
def predict(
    model: Model,
    sources: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the drawn images and predictions.json.")],
    sampling: Annotated[Sampling | None, typer.Option(help="As in training by default, bilinear where the file does not say.")] = None,
    decode: DecodeChoice = Decode.refined, skeleton: SkeletonFile = None, resolution: Resolution = None, threads: Threads = None,
    threshold: Annotated[float, typer.Option(help="Keypoints with a lower score are not drawn.")] = 0.2,
) -> None:  # fmt: skip
    """Draw the poses of images and folders."""
    from heatpose.evaluate import skeleton_of
    from heatpose.predict import predict_sources
    from heatpose.runners import open_runner

    runner = open_runner(model, threads=threads, size=resolution)
    chosen = skeleton_of(runner, _skeleton(skeleton))
    summary = predict_sources(runner, sources, out, chosen, decode=str(decode), sampling=None if sampling is None else str(sampling), threshold=threshold)
    typer.echo(summary)


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="A data set: a folder in COCO 2017 layout, or with one person_keypoints_*.json and its images.")],
    split: Annotated[Split, typer.Option(help="Which part of a folder in COCO 2017 layout.")] = Split.train,
    skeleton: Annotated[Path | None, typer.Option(help="Skeleton YAML; by default COCO's 17 keypoints, or what else the labels have.")] = None,
    files: Annotated[bool, typer.Option("--files", help="Decode every image as well: finds missing and broken ones.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of labelled people here (PNG or JPEG).")] = None,
    json_out: JsonOut = None,
) -> None:
    """Audit a data set: what is kept and dropped, and why; what the people are like."""
    from rich.console import Console

    from heatpose.data.coco import people, read_labels
    from heatpose.data.contact import contact_sheet_of
    from heatpose.data.report import audit_report, print_audit
    from heatpose.data.sources import find_part
    from heatpose.skeleton import for_labels

    part = find_part(folder, str(split))
    labels = read_labels(part.annotations)
    chosen = _skeleton(skeleton) or for_labels(labels.keypoint_names)
    report = audit_report(labels, part.images, chosen, check_files=files)
    print_audit(report, Console())
    if sheet is not None:
        _write_picture(sheet, contact_sheet_of(people(labels, part.images, chosen)[0], chosen))
    _write_json(json_out, report.to_json())


class _Scoring:
    """The evaluation set of one command; people are read once per skeleton."""

    def __init__(self, annotations: Path, images: Path, sampling: Sampling, decode: Decode, skeleton: Path | None) -> None:
        from heatpose.data.coco import read_labels

        self.labels, self.images = read_labels(annotations), images
        self.sampling, self.decode, self.skeleton = str(sampling), str(decode), _skeleton(skeleton)
        self.people: dict[tuple[str, ...], list[Person]] = {}

    def of(self, model: Path, resolution: int | None, threads: int | None, reference_kernels: bool) -> EvalReport:
        from heatpose.data.coco import benchmark_people
        from heatpose.evaluate import evaluate, skeleton_of
        from heatpose.runners import open_runner

        runner = open_runner(model, threads=threads, size=resolution, reference_kernels=reference_kernels)
        skeleton = skeleton_of(runner, self.skeleton)
        key = tuple(skeleton.keypoints)
        if key not in self.people:
            self.people[key] = benchmark_people(self.labels, self.images, skeleton)[0]
        return evaluate(runner, self.people[key], skeleton, sampling=self.sampling, decode=self.decode)


def _skeleton(path: Path | None) -> Skeleton | None:
    from heatpose.skeleton import Skeleton

    return None if path is None else Skeleton.from_yaml(path)


def _inspection(model: Path) -> dict[str, Any]:
    from heatpose.export.inspection import inspect_onnx, inspect_tflite
    from heatpose.runners import CHECKPOINTS

    suffix = model.suffix.lower()
    if suffix == ".onnx":
        return inspect_onnx(model).to_json()
    if suffix in CHECKPOINTS:
        from heatpose.models.facts import inspect_checkpoint

        return inspect_checkpoint(model)
    return inspect_tflite(model).to_json()


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    from PIL import Image

    _write_whole(path, lambda part: Image.fromarray(picture).save(part), "give a path that ends in .png or .jpg")


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        text = json.dumps(content, indent=1)
        _write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), "give the path of a file")


def _write_whole(path: Path, write: Callable[[Path], object], advice: str) -> None:
    """Writes a temporary sibling with the same ending and renames it, so that a file is whole or absent."""
    part = path.with_name(f".{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HeatposeError(f"'{path}' cannot be written ({reason}); {advice}.") from error
    finally:
        with contextlib.suppress(OSError):  # gone, or its folder is none: the error above says so
            part.unlink(missing_ok=True)


def main() -> None:
    """Entry point of the `heatpose` command."""
    with told_in_one_sentence():
        app()


if __name__ == "__main__":
    main()
