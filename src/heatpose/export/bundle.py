"""A network becomes `exports/<name>/`, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.export.assembly import Assembly, BundleJob
from heatpose.export.convert import check_installed
from heatpose.export.gates import GateLimits
from heatpose.export.inspection import Artefact, Output
from heatpose.export.result import BundleResult, Row, Steps, print_table
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, AutoChoice, Recovery, Tuning
from heatpose.runners.manifest import MANIFEST
from heatpose.skeleton import Skeleton

if TYPE_CHECKING:
    from rich.console import Console

    from heatpose.models.decode import PoseForm
    from heatpose.models.movenet import MoveNet

__all__ = ["FORMS", "BundleResult", "Row", "export_bundle", "print_table"]

FORMS: tuple[Artefact, ...] = ("float32", "int8_pc", "int8_pt")
DEFAULT_LIMITS = GateLimits()
RECOVERY: Mapping[str, Recovery] = {"int8_pc": PER_CHANNEL, "int8_pt": PER_TENSOR}


def export_bundle(
    *, network: MoveNet, skeleton: Skeleton, preprocessing: Preprocessing, name: str, model_name: str, out: Path,
    calibration_people: Sequence[Person], evaluation_people: Sequence[Person] | None, config: Mapping[str, Any],
    provenance: Mapping[str, Any], forms: Sequence[Artefact] = FORMS, output: Output = "float32", sigmoid: bool = True,
    limits: GateLimits = DEFAULT_LIMITS, calibration_count: int = 128, seed: int = 0, pose: PoseForm = "xy",
    recovery: Mapping[str, Recovery] = RECOVERY, tuning: Mapping[str, Tuning | None] | None = None, auto: AutoChoice | None = None,
    console: Console | None = None,
) -> BundleResult:  # fmt: skip
    """Exports, proves and scores a network; replaces an older bundle of that name once the new one is whole.

    Args:
        network: Float network, with or without batch norm; it is left as it is.
        skeleton: What its channels are.
        preprocessing: How images become its input; its size is the resolution.
        name: Of the bundle: a plain folder name.
        model_name: How the model files begin.
        out: Folder of all bundles; made if missing.
        calibration_people: Training people to choose calibration images from. The same images serve for the
            comparison of the files with the network.
        evaluation_people: Scored with the published protocol; None where there is no evaluation set.
        config: Configuration of the run, plain values, for the manifest.
        provenance: Where weights and data come from, plain values, for manifest and model card.
        forms: TFLite files to make.
        output: Output type of the int8 files.
        sigmoid: Ends every file in a sigmoid.
        limits: Of the gates.
        calibration_count: Calibration images.
        seed: Of their choice.
        pose: Output of files that decode inside: "xy" or Google's "yx".
        recovery: Per int8 form: how post-training quantisation is helped.
        tuning: Per int8 form: quantisation-aware fine-tuning after it; none where it is not named.
        auto: Takes the cheapest way that keeps the score, instead of all that `recovery` and `tuning` say.
        console: Where progress is shown.

    Returns:
        The table's rows and whether every file passed its gates; a file that did not is kept as
        `*.rejected.*`.

    Raises:
        HeatposeError: Bad names, no calibration images or ones that are scored, tools not installed, a
            conversion that failed. Nothing is left behind then, and an older bundle stays.
    """
    job = BundleJob(
        network, skeleton, preprocessing, name, model_name, Path(out), calibration_people, evaluation_people,
        tuple(forms), output, sigmoid, limits, config, provenance, calibration_count, seed, recovery, pose, tuning or {}, auto,
    )  # fmt: skip
    _check(job)
    job.out.mkdir(parents=True, exist_ok=True)
    # In the same folder as the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=job.out) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        result = Assembly(job, folder, Steps(console)).run()
        _replace(folder, job.out / name, Path(temporary) / "old")
    return result


def check_place(out: Path, name: str, model_name: str) -> None:
    """Refuses names that are no plain file names, and a place that something else has.

    Args:
        out: Folder of all bundles.
        name: Of the bundle.
        model_name: How its model files begin.

    Raises:
        HeatposeError: A name cannot be used, or `out/name` is no bundle.
    """
    for label, value in (("name", name), ("model name", model_name)):
        if not value or value != Path(value).name or value.startswith("."):
            raise HeatposeError(f"'{value}' is no {label} for a bundle; use letters, digits, '-' and '_'.")
    target = out / name
    if target.exists() and not (target / MANIFEST).is_file():
        raise HeatposeError(f"'{target}' exists and is no bundle; choose another name or move it away.")


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
    if lacking := [form for form in job.forms if form != "float32" and form not in job.recovery]:
        raise HeatposeError(f"quant.recovery says nothing about {', '.join(lacking)}; give it an entry of that name.")
    if len(job.skeleton) != job.network.keypoints:
        raise HeatposeError(
            f"The network has {job.network.keypoints} heatmaps, but skeleton '{job.skeleton.name}' has "
            f"{len(job.skeleton)} keypoints; choose the skeleton it was trained with."
        )
    if job.network.four_heads and job.output == "int8":  # said here, before a minute of conversion
        raise HeatposeError("A network whose decode is in the graph has no int8 output; choose quant.output=float32.")
    check_tools(job.forms)


def _replace(new: Path, target: Path, old: Path) -> None:
    """Puts the finished folder in place; the older one moves out of the way, and back if that fails."""
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
