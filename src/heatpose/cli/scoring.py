"""Commands that score models: `heatpose evaluate` and `compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.cli.options import (
    Annotations,
    Decode,
    DecodeChoice,
    Images,
    JsonOut,
    Model,
    NormalisationText,
    ReferenceKernels,
    Resolution,
    Sampling,
    SamplingChoice,
    SkeletonFile,
    Threads,
    model_names,
    print_reading,
    read_normalisation,
    read_skeleton,
)
from heatpose.errors import HeatposeError
from heatpose.utils.files import require_writable_files, write_json_output

if TYPE_CHECKING:
    from heatpose.data.sample import Person
    from heatpose.evaluation.evaluate import EvalReport


def evaluate(
    model: Model,
    annotations: Annotations,
    images: Images = None,
    json_out: JsonOut = None,
    sampling: SamplingChoice = Sampling.nearest,
    decode: DecodeChoice = Decode.argmax,
    skeleton: SkeletonFile = None,
    normalisation: NormalisationText = None,
    resolution: Resolution = None,
    threads: Threads = None,
    reference_kernels: ReferenceKernels = False,
) -> None:
    """Score a model by the published single-person protocol, and by COCO AP."""
    from heatpose.evaluation.evaluate import report_table
    from heatpose.utils.progress import show

    require_writable_files(json_out)
    scored = _Scoring(annotations, images, sampling, decode, skeleton, normalisation)
    report = scored.of(model, resolution, threads, reference_kernels)
    show(report_table([report]))
    write_json_output(json_out, {**report.to_json(), "labels": scored.labels.source.record()})


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more models; the others are compared with the first.",
            autocompletion=model_names,
        ),
    ],
    annotations: Annotations,
    images: Images = None,
    json_out: JsonOut = None,
    sampling: SamplingChoice = Sampling.nearest,
    decode: DecodeChoice = Decode.argmax,
    skeleton: SkeletonFile = None,
    normalisation: NormalisationText = None,
    resolution: Resolution = None,
    threads: Threads = None,
    reference_kernels: ReferenceKernels = False,
) -> None:
    """Score several models on the same images, with paired bootstrap intervals of differences."""
    from heatpose.evaluation.evaluate import comparison_table, paired_difference
    from heatpose.utils.progress import show

    if len(models) < 2:
        raise typer.BadParameter("give at least two models")
    require_writable_files(json_out)
    scored = _Scoring(annotations, images, sampling, decode, skeleton, normalisation)
    reports = [scored.of(model, resolution, threads, reference_kernels) for model in models]
    differences = [paired_difference(report, reports[0]) for report in reports[1:]]
    show(comparison_table(reports, differences))
    against = [
        {"model": r.model, "mean": d.mean, "low": d.low, "high": d.high}
        for r, d in zip(reports[1:], differences, strict=True)
    ]
    labels = scored.labels.source.record()
    write_json_output(
        json_out,
        {
            "reports": [report.to_json() for report in reports],
            "difference_from_first": against,
            "labels": labels,
        },
    )


class _Scoring:
    """Evaluation set of a command; instances are read once per skeleton."""

    def __init__(
        self,
        annotations: Path,
        images: Path | None,
        sampling: Sampling,
        decode: Decode,
        skeleton: Path | None,
        normalisation: str | None,
    ) -> None:
        from heatpose.data.coco import read_labels

        if images is not None and not images.is_dir():
            raise HeatposeError(
                f"'{images}' is not a folder; give the folder of the images that '{annotations}'"
                " lists."
            )
        self.labels = read_labels(annotations, images)
        self.images = self.labels.source.folder
        self.sampling, self.decode, self.skeleton = (
            str(sampling),
            str(decode),
            read_skeleton(skeleton),
        )
        self.normalisation = read_normalisation(normalisation)
        self.instances: dict[tuple[str, ...], list[Person]] = {}

    def of(
        self, model: Path, resolution: int | None, threads: int | None, reference_kernels: bool
    ) -> EvalReport:
        from heatpose.bundles.released import resolve
        from heatpose.data.coco import benchmark_instances
        from heatpose.data.sample import print_once
        from heatpose.evaluation.evaluate import evaluate
        from heatpose.runners import open_runner
        from heatpose.runners.reading import check_runs, reading_of

        model = resolve(model)
        check_runs(model, resolution)
        runner = open_runner(
            model,
            threads=threads,
            size=resolution,
            reference_kernels=reference_kernels,
            normalisation=self.normalisation,
        )
        reading = reading_of(runner, self.skeleton)
        print_reading(reading)
        skeleton, key = reading.skeleton, tuple(reading.skeleton.keypoints)
        if key not in self.instances:
            self.instances[key], audit = benchmark_instances(self.labels, self.images, skeleton)
            print_once(audit.summary(self.labels.path, "scored, one on each image"))
            print_once(audit.readings.summary(self.labels.path))
        instances = self.instances[key]
        report = evaluate(runner, instances, skeleton, sampling=self.sampling, decode=self.decode)
        return replace(report, reading=reading)
