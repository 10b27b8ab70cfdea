"""Exports a network as the bundle `exports/<name>/`, atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.bundle import Bundle, file_table
from heatpose.bundles.facts import ScoreThreshold
from heatpose.bundles.provenance import surroundings
from heatpose.errors import first_line
from heatpose.evaluation.evaluate import paired_difference
from heatpose.evaluation.published import Comparison, OutputType, compare
from heatpose.export.card import model_card, terms
from heatpose.export.checks import drop_json
from heatpose.export.convert import convert
from heatpose.export.job import ExportJob
from heatpose.export.onnx import export_onnx, into_tflite
from heatpose.export.result import BundleResult, Steps, rows_of
from heatpose.export.validate import ONNX, TORCH, ValidationResult, Validator, held_out
from heatpose.quantize.calibration import (
    calibration_images,
    calibration_record,
    choose_calibration,
)
from heatpose.quantize.select import Quantised, Quantiser
from heatpose.report import REPORT, write_report
from heatpose.report.gallery import gallery_record
from heatpose.tflite.inspect import Artefact
from heatpose.utils.files import atomic_folder, only_one, remove_left_overs, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

CALIBRATION, METRICS, CARD = "calibration.json", "metrics.json", "README.md"
FORMAT = 1
"""Of the manifest."""


def export_bundle(job: ExportJob, console: Console | None = None) -> BundleResult:
    """Exports, validates and scores a network.

    Replaces an older bundle of that name once the new one is complete.

    Args:
        job: What to export.
        console: Where progress is shown.

    Returns:
        The table's rows and the acceptance checks; a file that failed one is kept as
        `*.rejected.*`.

    Raises:
        HeatposeError: As `ExportJob.check`; no calibration images or ones that are scored, a
            conversion that failed, another export of that name at this moment. Nothing is left
            behind then, and an older bundle stays.
    """
    job.check()
    out, name = job.folder.parent, job.folder.name
    with only_one(out, name, "The bundle"):
        remove_left_overs(out, f".{name}.")
        steps = Steps(console)
        with atomic_folder(job.folder) as folder:
            result = Assembly(job, folder, steps).run()
    return replace(result, seconds=dict(steps.seconds))


@dataclass
class Assembly:
    """One export into an empty folder."""

    job: ExportJob
    folder: Path
    steps: Steps
    quantised: dict[str, Quantised] = field(init=False, default_factory=dict)
    calibration: dict[str, Any] = field(init=False)

    def run(self) -> BundleResult:
        """Makes every file of the bundle."""
        images = self._calibrate()
        files = self._convert(images)
        ranges = {artefact: made.ranges for artefact, made in self.quantised.items()}
        write_json(self.folder / CALIBRATION, {**self.calibration, "ranges": ranges})
        validations = [self._settled(validation) for validation in self._validate(files, images)]
        published = _published(self.job, validations)
        self._write_metrics(validations, published)
        result = BundleResult(
            folder=self.job.folder,
            rows=tuple(rows_of(validations)),
            checks=tuple(check.to_json() for each in validations for check in each.checks),
            published=published,
        )
        bundle = Bundle(self.folder, self._manifest(len(images), result, validations))
        bundle.write()
        self._document(bundle, result, validations)
        return result

    def _document(
        self, bundle: Bundle, result: BundleResult, validations: Sequence[ValidationResult]
    ) -> None:
        """Writes the model card and the report.

        A report that fails does not fail the export.
        """
        write_text(self.folder / CARD, model_card(self.job, result, validations))
        bundle.record(CARD)
        try:
            with self.steps.step("report", "Report"):
                write_report([self.folder], self.folder / REPORT)
            bundle.record(REPORT)
        except Exception as error:
            self.steps.note(
                f"No {REPORT} ({type(error).__name__}: {first_line(error)}); the bundle is complete"
                " otherwise, `heatpose report` writes it again."
            )

    def _calibrate(self) -> NDArray[np.uint8]:
        data, config = self.job.data, self.job.config
        count, seed = config.calibration_images, config.calibration_seed
        with self.steps.step("calibration", "Calibration images"):
            data.check()
            chosen = choose_calibration(data.fitting, count, seed)
            images = calibration_images(chosen, self.job.model.preprocessing)
            self.calibration = calibration_record(chosen, seed, count)
        return images

    def _convert(self, images: NDArray[np.uint8]) -> dict[Artefact, Path]:
        job = self.job
        onnx = self.folder / f"{job.stem}.onnx"
        with self.steps.step("onnx", "Torch to ONNX"):
            export_onnx(
                job.model.network,
                job.model.preprocessing.size,
                onnx,
                sigmoid=job.config.ends_in_sigmoid,
                pose=job.config.pose,
                metadata=job.metadata,
            )
        artefacts = job.config.artefacts
        if not artefacts:
            return {}
        files = {artefact: self.folder / f"{job.stem}_{artefact}.tflite" for artefact in artefacts}
        whole = self.folder / f"{job.stem}_float32.tflite"
        with self.steps.step("tflite", "ONNX to TFLite") as update:
            whole.write_bytes(into_tflite(convert(onnx, on_step=update), job.metadata))
        quantiser = Quantiser(
            model=job.model,
            config=job.config,
            data=job.data,
            float_file=whole,
            calibration=images,
        )
        for artefact in artefacts:
            if artefact != "float32":
                with self.steps.step(artefact, f"Quantisation ({artefact})") as update:
                    self.quantised[artefact] = quantiser.make(artefact, update)
                self.steps.note(f"  {artefact}: {self.quantised[artefact].sentence()}")
                files[artefact].write_bytes(self.quantised[artefact].content)
        if whole not in files.values():
            whole.unlink()
        return files

    def _validate(
        self, files: Mapping[Artefact, Path], images: NDArray[np.uint8]
    ) -> Iterator[ValidationResult]:
        job = self.job
        validator = Validator(
            model=job.model,
            config=job.config,
            images=images,
            instances=job.data.evaluation,
            holdout=held_out(job, self.calibration),
        )
        spinner = not job.data.evaluation
        with self.steps.step(f"validate {TORCH}", "Score of the network", spinner):
            network = validator.validate_network(f"{job.stem}_{TORCH}")
        yield network
        with self.steps.step(f"validate {ONNX}", "Checks and score of onnx", spinner):
            onnx = validator.validate_onnx(self.folder / f"{job.stem}.onnx")
        yield onnx
        for artefact, path in files.items():
            with self.steps.step(
                f"validate {artefact}", f"Checks and score of {artefact}", spinner
            ):
                validation = validator.validate_tflite(artefact, path)
            yield validation

    def _settled(self, validation: ValidationResult) -> ValidationResult:
        """Renames a file that failed an acceptance check, so that it is not used by accident."""
        if validation.path is None or validation.passed:
            return validation
        rejected = validation.path.with_name(
            f"{validation.path.stem}.rejected{validation.path.suffix}"
        )
        os.replace(validation.path, rejected)
        report = validation.report and replace(validation.report, model=rejected.name)
        return replace(validation, path=rejected, report=report)

    def _write_metrics(
        self, validations: Sequence[ValidationResult], published: Comparison
    ) -> None:
        """Per artefact its report, its drop against the torch network and its time."""
        reference = validations[0].report
        entries: dict[str, Any] = {}
        for validation in validations:
            entry: dict[str, Any] = {
                "milliseconds": validation.milliseconds,
                "kernels": validation.kernels,
                "passed": validation.passed,
                "file": validation.path.name if validation.path else None,
                "drift": _drift(validation),
                "agreement": validation.agreement,
                "threshold": validation.threshold and validation.threshold.to_dict(),
            }
            if validation.report is not None and reference is not None:
                entry |= {
                    "report": validation.report.to_json(),
                    **drop_json(paired_difference(reference, validation.report)),
                }
            entries[validation.artefact] = entry
        reports = {each.artefact: each.report for each in validations}
        write_json(
            self.folder / METRICS,
            {
                "scored": reference is not None,
                "reference": TORCH,
                "artefacts": entries,
                "published": published.to_json(),
                "gallery": gallery_record(reports, self.job.data.evaluation or ()),
            },
        )

    def _manifest(
        self, images: int, result: BundleResult, validations: Sequence[ValidationResult]
    ) -> dict[str, Any]:
        job, config = self.job, self.job.config
        files = file_table(self.folder)
        return {
            "format": FORMAT,
            "name": job.name,
            "model": job.model_name,
            "resolution": job.model.preprocessing.size,
            "skeleton": job.model.skeleton.to_dict(),
            "preprocessing": job.model.preprocessing.to_dict(),
            "score_threshold": _threshold(validations).to_dict(),
            "network": dict(job.model.network.settings),
            "forms": list(config.artefacts),
            "output": config.output_dtype,
            "sigmoid": config.ends_in_sigmoid,
            "recovery": {f: asdict(config.ptq[f]) for f in config.artefacts if f in config.ptq},
            "quantisation": {artefact: made.to_json() for artefact, made in self.quantised.items()},
            "pose": config.pose if job.decoded else None,
            "passed": result.passed,
            "files": files,
            "gates": list(result.checks),
            "calibration": {
                "images": images,
                "seed": config.calibration_seed,
                "sha256": files[CALIBRATION]["sha256"],
            },
            "data": job.data_entries,
            "config": dict(job.run_config),
            "provenance": dict(job.provenance),
            "terms": asdict(terms(job)),
            **surroundings(),
        }


def _threshold(validations: Sequence[ValidationResult]) -> ScoreThreshold:
    """The measured threshold of the first int8 file; the default where none could be measured."""
    curve = next((each.threshold for each in validations if each.threshold is not None), None)
    if curve is None:
        return ScoreThreshold()
    at = int(curve.f1.argmax())
    return ScoreThreshold(
        curve.best,
        f"highest F1 of the shown keypoints on {curve.instances} held-out training instances "
        f"(precision {curve.precision[at]:.2f}, recall {curve.recall[at]:.2f})",
    )


def _published(job: ExportJob, validations: Sequence[ValidationResult]) -> Comparison:
    """The published rows for this kind of network beside what was measured."""
    settings = job.model.network.settings
    output: OutputType = "keypoints" if settings.get("heads") == "all" else "heatmaps"
    measured = {validation.artefact: validation.report for validation in validations}
    return compare(
        job.model.skeleton,
        job.model.preprocessing.size,
        measured,
        width=settings["width"],
        output=output,
    )


def _drift(validation: ValidationResult) -> dict[str, Any] | None:
    """How far an int8 file moves the keypoints, in input pixels, over the calibration images.

    None for the others.
    """
    return next(
        (check.numbers for check in validation.checks if "per_keypoint" in check.numbers), None
    )
