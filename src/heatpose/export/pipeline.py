"""A network becomes `exports/<name>/`, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.facts import MANIFEST, ScoreThreshold
from heatpose.bundles.manifest import FORMAT, data_entry, file_table, surroundings
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError, first_line
from heatpose.evaluation.evaluate import paired_difference
from heatpose.evaluation.published import Comparison, OutputForm, compare
from heatpose.export.card import model_card
from heatpose.export.checks import CheckLimits, drop_json
from heatpose.export.convert import check_installed, convert
from heatpose.export.embed import description, into_tflite
from heatpose.export.onnx import export_onnx
from heatpose.export.result import BundleResult, Row, Steps, print_table, rows_of
from heatpose.export.validate import ONNX, TORCH, ValidationResult, Validator
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.quantize.calibration import (
    calibration_images,
    calibration_record,
    choose_calibration,
    shared_images,
)
from heatpose.quantize.select import Quantised, Quantiser, split_training
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, AutoChoice, PtqSettings, QatSettings
from heatpose.report import REPORT, write_report
from heatpose.report.gallery import gallery_record
from heatpose.tflite.inspect import Artefact, Output
from heatpose.utils.files import atomic_folder, only_one, remove_left_overs, sha256, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from heatpose.models.decode import PoseForm
    from heatpose.models.movenet import MoveNet


__all__ = ["FORMS", "BundleResult", "Row", "export_bundle", "print_table"]

FORMS: tuple[Artefact, ...] = ("float32", "int8_pc", "int8_pt")
DEFAULT_LIMITS = CheckLimits()
PTQ: Mapping[str, PtqSettings] = {"int8_pc": PER_CHANNEL, "int8_pt": PER_TENSOR}


def export_bundle(
    *,
    network: MoveNet,
    skeleton: Skeleton,
    preprocessing: Preprocessing,
    name: str,
    model_name: str,
    out: Path,
    calibration_instances: Sequence[Person],
    evaluation_instances: Sequence[Person] | None,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    forms: Sequence[Artefact] = FORMS,
    output: Output = "float32",
    sigmoid: bool = True,
    limits: CheckLimits = DEFAULT_LIMITS,
    calibration_count: int = 128,
    seed: int = 0,
    pose: PoseForm = "xy",
    ptq: Mapping[str, PtqSettings] = PTQ,
    qat: Mapping[str, QatSettings | None] | None = None,
    auto: AutoChoice | None = None,
    console: Console | None = None,
) -> BundleResult:
    """Exports, proves and scores a network.

    Replaces an older bundle of that name once the new one is whole.

    Args:
        network: Float network, with or without batch norm; it is left as it is.
        skeleton: What its channels are.
        preprocessing: How images become its input; its size is the resolution.
        name: Of the bundle: a plain folder name.
        model_name: How the model files begin.
        out: Folder of all bundles; made if missing.
        calibration_instances: Training people to choose calibration images from. The same images
            serve for the comparison of the files with the network.
        evaluation_instances: Scored with the published protocol; None where there is no evaluation
            set.
        config: Configuration of the run, plain values, for the manifest.
        provenance: Where weights and data come from, plain values, for manifest and model card.
        forms: TFLite files to make.
        output: Output type of the int8 files.
        sigmoid: Ends every file in a sigmoid.
        limits: Of the gates.
        calibration_count: Calibration images.
        seed: Of their choice.
        pose: Output of files that decode inside: "xy" or Google's "yx".
        ptq: Per int8 form: how post-training quantisation is helped.
        qat: Per int8 form: quantisation-aware fine-tuning after it; none where it is not named.
        auto: Takes the cheapest way that keeps the score, instead of all that `ptq` and
            `qat` say.
        console: Where progress is shown.

    Returns:
        The table's rows and whether every file passed its gates; a file that did not is kept as
        `*.rejected.*`.

    Raises:
        HeatposeError: Bad names, no calibration images or ones that are scored, tools not
            installed, a conversion that failed, another export of that name at this moment. Nothing
            is left behind then, and an older bundle stays.
    """
    job = BundleJob(
        network,
        skeleton,
        preprocessing,
        name,
        model_name,
        Path(out),
        calibration_instances,
        evaluation_instances,
        tuple(forms),
        output,
        sigmoid,
        limits,
        config,
        provenance,
        calibration_count,
        seed,
        ptq,
        pose,
        qat or {},
        auto,
    )
    _check(job)
    with only_one(job.out, name, "The bundle"):
        remove_left_overs(job.out, f".{name}.")
        with atomic_folder(job.out / name) as folder:
            result = Assembly(job, folder, Steps(console)).run()
    return result


def check_place(out: Path, name: str, model_name: str) -> None:
    """Refuses names that are no plain file names, and a place that something else has.

    Args:
        out: Folder of all bundles.
        name: Of the bundle.
        model_name: How its model files begin.

    Raises:
        HeatposeError: A name cannot be used, or `out/name` is not a bundle.
    """
    for label, value in (("name", name), ("model name", model_name)):
        if not value or value != Path(value).name or value.startswith("."):
            raise HeatposeError(
                f"'{value}' is no {label} for a bundle; use letters, digits, '-' and '_'."
            )
    target = out / name
    if target.exists() and not (target / MANIFEST).is_file():
        raise HeatposeError(
            f"'{target}' exists and is no bundle; choose another name or move it away."
        )


def check_tools(forms: Sequence[Artefact]) -> None:
    """Refuses to start without the tools that these TFLite files need.

    Raises:
        HeatposeError: One is not installed.
    """
    if forms:
        check_installed()


def _check(job: BundleJob) -> None:
    check_place(job.out, job.name, job.model_name)
    if unknown := [form for form in job.forms if form not in FORMS]:
        raise HeatposeError(f"TFLite form {unknown} is unknown; choose among {', '.join(FORMS)}.")
    if lacking := [form for form in job.forms if form != "float32" and form not in job.ptq]:
        raise HeatposeError(
            f"quant.ptq says nothing about {', '.join(lacking)}; give it an entry of that name."
        )
    if len(job.skeleton) != job.network.keypoints:
        raise HeatposeError(
            f"The network has {job.network.keypoints} heatmaps, but skeleton '{job.skeleton.name}'"
            f" has {len(job.skeleton)} keypoints; choose the skeleton it was trained with."
        )
    if job.network.four_heads and job.output == "int8":  # said here, before a minute of conversion
        raise HeatposeError(
            "A network whose decode is in the graph has no int8 output; choose"
            " quant.output=float32."
        )
    check_tools(job.forms)


CALIBRATION, METRICS, CARD = "calibration.json", "metrics.json", "README.md"


@dataclass(frozen=True)
class BundleJob:
    """What to export; the arguments of `export_bundle`."""

    network: MoveNet
    skeleton: Skeleton
    preprocessing: Preprocessing
    name: str
    model_name: str
    out: Path
    calibration_instances: Sequence[Person]
    evaluation_instances: Sequence[Person] | None
    forms: tuple[Artefact, ...]
    output: Output
    sigmoid: bool
    limits: CheckLimits
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    calibration_count: int
    seed: int
    ptq: Mapping[str, PtqSettings]
    pose: PoseForm = "xy"
    qat: Mapping[str, QatSettings | None] = field(default_factory=dict)
    auto: AutoChoice | None = None

    @property
    def stem(self) -> str:
        """How the model files begin."""
        return f"{self.model_name}_{self.preprocessing.size}"

    @property
    def metadata(self) -> str:
        """What every model file states about itself."""
        decoded = self.network.four_heads
        sure, pose = self.sigmoid or decoded, self.pose if decoded else None
        return description(self.skeleton, self.preprocessing, probabilities=sure, pose=pose)


@dataclass
class Assembly:
    """One export into an empty folder."""

    job: BundleJob
    folder: Path
    steps: Steps
    quantised: dict[str, Quantised] = field(init=False, default_factory=dict)
    instances: list[Person] = field(init=False)
    holdout: list[Person] = field(init=False)
    calibration: dict[str, Any] = field(init=False)

    def run(self) -> BundleResult:
        """Makes every file of the bundle."""
        job = self.job
        images = self._calibrate()
        files = self._convert(images)
        write_json(
            self.folder / CALIBRATION,
            {
                **self.calibration,
                "ranges": {form: made.ranges for form, made in self.quantised.items()},
            },
        )
        validations = [self._settled(validation) for validation in self._validate(files, images)]
        rows = rows_of(validations)
        published = _published(job, validations)
        record = gallery_record(
            {validation.artefact: validation.report for validation in validations},
            job.evaluation_instances or (),
        )
        write_json(
            self.folder / METRICS,
            {**_metrics(validations), "published": published.to_json(), "gallery": record},
        )
        card = model_card(job, rows, validations, published)
        (self.folder / CARD).write_text(card, encoding="utf-8")
        result = BundleResult(
            job.out / job.name,
            tuple(rows),
            _checks(validations),
            dict(self.steps.seconds),
            published,
        )
        manifest = self._manifest(len(images), result)
        # the report reads it, and is one of the files that it lists
        write_json(self.folder / MANIFEST, manifest)
        self._report()
        write_json(self.folder / MANIFEST, {**manifest, "files": file_table(self.folder)})
        return replace(result, seconds=dict(self.steps.seconds))

    def _report(self) -> None:
        """The page about the bundle.

        What took minutes to prove is not lost where the page cannot be made.
        """
        try:
            with self.steps.step("report", "Report"):
                write_report([self.folder], self.folder / REPORT)
        except Exception as error:
            self.steps.tell(
                f"No {REPORT} ({type(error).__name__}: {first_line(error)}); the bundle is whole"
                " otherwise, heatpose report writes it again."
            )

    def _calibrate(self) -> NDArray[np.uint8]:
        job = self.job
        with self.steps.step("calibration", "Calibration images"):
            scored = shared_images(job.calibration_instances, job.evaluation_instances or ())
            # refuses scored images by name
            choose_calibration(job.calibration_instances, job.calibration_count, job.seed, scored)
            self.instances, self.holdout = split_training(
                job.calibration_instances, scored, job.auto
            )
            chosen = choose_calibration(self.instances, job.calibration_count, job.seed, scored)
            images = calibration_images(chosen, job.preprocessing)
            self.calibration = calibration_record(chosen, job.seed, job.calibration_count)
        return images

    def _convert(self, images: NDArray[np.uint8]) -> dict[Artefact, Path]:
        job = self.job
        onnx = self.folder / f"{job.stem}.onnx"
        with self.steps.step("onnx", "Torch to ONNX"):
            size, text = job.preprocessing.size, job.metadata
            export_onnx(job.network, size, onnx, sigmoid=job.sigmoid, pose=job.pose, metadata=text)
        if not job.forms:
            return {}
        files = {form: self.folder / f"{job.stem}_{form}.tflite" for form in job.forms}
        whole = self.folder / f"{job.stem}_float32.tflite"
        with self.steps.step("tflite", "ONNX to TFLite") as update:
            whole.write_bytes(into_tflite(convert(onnx, on_step=update), job.metadata))
        quantiser = Quantiser(
            job.network,
            job.skeleton,
            job.preprocessing,
            whole,
            images,
            self.instances,
            self.holdout,
            job.output,
            job.ptq,
            job.qat,
            job.auto,
            job.seed,
        )
        for form in job.forms:
            if form != "float32":
                with self.steps.step(form, f"Quantisation ({form})") as update:
                    self.quantised[form] = quantiser.make(form, update)
                self.steps.tell(f"  {form}: {self.quantised[form].sentence()}")
                files[form].write_bytes(self.quantised[form].content)
        if whole not in files.values():
            whole.unlink()
        return files

    def _validate(
        self, files: Mapping[Artefact, Path], images: NDArray[np.uint8]
    ) -> Iterator[ValidationResult]:
        job = self.job
        validator = Validator(
            job.network,
            job.skeleton,
            job.preprocessing,
            images,
            job.evaluation_instances,
            job.limits,
            job.sigmoid,
            job.output,
            job.pose,
        )
        spinner = not job.evaluation_instances
        with self.steps.step(f"prove {TORCH}", "The network itself", spinner):
            network = validator.validate_network(f"{job.stem}_{TORCH}")
        yield network
        with self.steps.step(f"prove {ONNX}", "Gates and score of onnx", spinner):
            onnx = validator.validate_onnx(self.folder / f"{job.stem}.onnx")
        yield onnx
        for form, path in files.items():
            with self.steps.step(f"prove {form}", f"Gates and score of {form}", spinner):
                validation = validator.validate_tflite(form, path)
            yield validation

    def _settled(self, validation: ValidationResult) -> ValidationResult:
        """A file that a gate refuses gets a name that nobody takes by accident."""
        if validation.path is None or validation.passed:
            return validation
        rejected = validation.path.with_name(
            f"{validation.path.stem}.rejected{validation.path.suffix}"
        )
        os.replace(validation.path, rejected)
        report = validation.report and replace(validation.report, model=rejected.name)
        return replace(validation, path=rejected, report=report)

    def _manifest(self, images: int, result: BundleResult) -> dict[str, Any]:
        job = self.job
        return {
            "format": FORMAT,
            "name": job.name,
            "model": job.model_name,
            "resolution": job.preprocessing.size,
            "skeleton": job.skeleton.to_dict(),
            "preprocessing": job.preprocessing.to_dict(),
            "score_threshold": ScoreThreshold().to_dict(),
            "network": dict(job.network.settings),
            "forms": list(job.forms),
            "output": job.output,
            "sigmoid": job.sigmoid,
            "recovery": {f: asdict(job.ptq[f]) for f in job.forms if f in job.ptq},
            "quantisation": {form: made.to_json() for form, made in self.quantised.items()},
            "pose": job.pose if job.network.four_heads else None,
            "passed": result.passed,
            "files": file_table(self.folder),
            "gates": list(result.checks),
            "calibration": {
                "images": images,
                "seed": job.seed,
                "sha256": sha256(self.folder / CALIBRATION),
            },
            "data": {
                "training": data_entry(job.calibration_instances),
                "evaluation": data_entry(job.evaluation_instances),
            },
            "config": dict(job.config),
            "provenance": dict(job.provenance),
            **surroundings(),
        }


def _checks(validations: Sequence[ValidationResult]) -> tuple[dict[str, Any], ...]:
    return tuple(check.to_json() for validation in validations for check in validation.checks)


def _published(job: BundleJob, validations: Sequence[ValidationResult]) -> Comparison:
    """The published rows for this kind of network beside what was measured."""
    settings = job.network.settings
    form: OutputForm = "keypoints" if settings.get("heads") == "all" else "heatmaps"
    measured = {validation.artefact: validation.report for validation in validations}
    return compare(
        job.skeleton, job.preprocessing.size, measured, width=settings["width"], output=form
    )


def _drift(validation: ValidationResult) -> dict[str, Any] | None:
    """How far an int8 file moves the keypoints, in input pixels, over the calibration images.

    None for the others.
    """
    return next(
        (check.numbers for check in validation.checks if "per_keypoint" in check.numbers), None
    )


def _metrics(validations: Sequence[ValidationResult]) -> dict[str, Any]:
    """Artefact -> its report, its drop against the torch network, its time."""
    reference = validations[0].report
    entries: dict[str, Any] = {}
    for validation in validations:
        entry: dict[str, Any] = {
            "milliseconds": validation.milliseconds,
            "kernels": validation.kernels,
            "passed": validation.passed,
            "file": validation.path.name if validation.path else None,
            "drift": _drift(validation),
        }
        if validation.report is not None and reference is not None:
            entry |= {
                "report": validation.report.to_json(),
                **drop_json(paired_difference(reference, validation.report)),
            }
        entries[validation.artefact] = entry
    return {"scored": reference is not None, "reference": TORCH, "artefacts": entries}
