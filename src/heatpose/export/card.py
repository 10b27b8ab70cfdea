"""The README of a bundle: what the model is, how it was scored, how to feed it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from heatpose.bundles.manifest import data_entry
from heatpose.deploy.estimate import estimate
from heatpose.deploy.targets import built_in, load_target
from heatpose.evaluation.published import Comparison, image_set, markdown
from heatpose.export.result import Row, cells
from heatpose.export.validate import ValidationResult
from heatpose.tflite.reader import read_graph

if TYPE_CHECKING:
    from heatpose.export.pipeline import BundleJob


def model_card(
    job: BundleJob,
    rows: Sequence[Row],
    validations: Sequence[ValidationResult],
    published: Comparison,
) -> str:
    """The card as Markdown; every number in it comes from this export."""
    parts = [
        head(job, validations),
        (
            f"# {job.name}\n\nSingle-person pose network:"
            f" {'MoveNet with decode, ' if job.network.four_heads else 'one heatmap each for '}"
            f"{len(job.skeleton)} keypoints,"
            f" {job.preprocessing.size}x{job.preprocessing.size} input."
        ),
        _files(rows),
        _scores(job, validations),
        markdown(published),
        _checks(validations),
        _footprint(validations),
        _use(job),
        _purpose(job),
        _origin(job),
    ]
    return "\n\n".join(parts) + "\n"


def _files(rows: Sequence[Row]) -> str:
    lines = [
        "## Files",
        "",
        "| file | OKS % | drop [95 %] | KiB | ms | verdict |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        _, *rest = cells(row)
        lines.append(f"| {row.file or 'torch network (not a file)'} | {' | '.join(rest)} |")
    lines += [
        "",
        (
            "ms: one image, decode included, on the machine that exported. `*.rejected.*` failed a"
            " gate."
        ),
    ]
    return "\n".join(lines)


def _scores(job: BundleJob, validations: Sequence[ValidationResult]) -> str:
    report = validations[0].report
    if report is None:
        return "## Score\n\nNot scored: no evaluation set was given."
    protocol = ", ".join(
        f"{key} {value}" for key, value in report.protocol.items() if key != "kernels"
    )
    lines = [
        "## Score",
        "",
        f"Mean OKS over {report.images} single-person images, each file run as it is ({protocol}).",
        (
            "The drop is against the torch network on the same images, with the 95 % interval of a"
            " paired"
        ),
        (
            "bootstrap. COCO AP is another number, computed by pycocotools, and does not compare"
            " with OKS. The"
        ),
        "other columns are the OKS of each keypoint.",
        "",
        "| artefact | AP % | AP50 % | " + " | ".join(job.skeleton.keypoints) + " |",
        "|" + "---|" * (3 + len(job.skeleton)),
    ]
    for validation in validations:
        if validation.report is not None:
            each = (_number(value) for value in validation.report.oks_per_keypoint.values())
            values = [_number(validation.report.ap), _number(validation.report.ap50), *each]
            lines.append(f"| {validation.artefact} | {' | '.join(values)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _checks(validations: Sequence[ValidationResult]) -> str:
    lines = ["## Gates", ""]
    for validation in validations:
        for check in validation.checks:
            mark = "passed" if check.passed else "**FAILED**"
            lines.append(f"- {check.artefact}, {check.name}: {mark}. {check.sentence}")
    return "\n".join(lines)


def _use(job: BundleJob) -> str:
    how = job.preprocessing
    side = how.size
    return "\n".join(
        [
            "## Use",
            "",
            (
                "- Input: the whole RGB image stretched to"
                f" {side}x{side} ({how.sampling} sampling), NHWC."
            ),
            (
                "  int8 files take the raw bytes as uint8; the float32 file and, in NCHW, the ONNX"
                " file take"
            ),
            f"  byte / {how.divisor:g} - {how.shift:g}.",
            *_output(job),
            f"- Keypoints in order: {', '.join(job.skeleton.keypoints)}.",
            "",
            "```",
            "heatpose evaluate MODEL --annotations LABELS.json --images FOLDER",
            "heatpose report FOLDER --out report.html",
            "heatpose predict MODEL IMAGES --out FOLDER",
            "```",
        ]
    )


def _output(job: BundleJob) -> list[str]:
    keypoints, grid = len(job.skeleton), job.preprocessing.size // 4
    if job.network.four_heads:
        shape, order = (
            (f"(1, {3 * keypoints})", "x, y, score")
            if job.pose == "xy"
            else (f"(1, 1, {keypoints}, 3)", "y, x, score")
        )
        return [
            (
                f"- Output: {shape} float32: {order} of each keypoint in turn, coordinates as"
                " fractions of the image's sides,"
            ),
            "  scores from 0 to 1. The decode, in float, is part of the graph.",
        ]
    heatmaps = "probabilities" if job.sigmoid else "logits"
    return [
        (
            f"- Output: heatmaps (1, {grid}, {grid}, {keypoints}), {heatmaps}; int8 files give"
            f" {job.output}."
        ),
        f"  ONNX: (1, {keypoints}, {grid}, {grid}).",
        (
            "- A keypoint is the centre of its map's highest cell, in fractions of the image's"
            " width and height:"
        ),
        f"  x = (column + 0.5) / {grid}, y = (row + 0.5) / {grid}.",
    ]


def _footprint(validations: Sequence[ValidationResult]) -> str:
    """What the files are expected to take on the built-in boards."""
    lines = [
        "## On a board",
        "",
        "| board | file | RAM KiB | flash KiB | one inference, ms |",
        "|" + "---|" * 5,
    ]
    for name in built_in():
        target = load_target(name)
        validation = next(
            (p for p in validations if p.artefact == target.artefact and p.path is not None), None
        )
        if validation is None or validation.path is None or target.estimator is None:
            continue
        expected = estimate(read_graph(validation.path), target)
        figures = (
            "not published" if value is None else str(value)
            for value in (expected.ram_kib, expected.flash_kib, expected.ms)
        )
        lines.append(f"| {target.board} | {validation.artefact} | {' | '.join(figures)} |")
    if len(lines) == 4:
        return "## On a board\n\nNot estimated: the bundle has no int8 file."
    return "\n".join(
        [
            *lines,
            "",
            (
                "Estimated with the interval in brackets from ST's published tables, not measured:"
                " no file here was run on a board for this"
            ),
            (
                "card. `heatpose estimate FILE --target NAME` says what the numbers rest on,"
                " `heatpose deploy` builds and measures."
            ),
        ]
    )


def _purpose(job: BundleJob) -> str:
    """For what, and for what not.

    Both follow from the protocol and from the form of the network.
    """
    return "\n".join(
        [
            "## Intended use and limits",
            "",
            (
                "For the pose of one person who is prominent in the image, on a microcontroller"
                " or beside one: fitness, gestures,"
            ),
            (
                "presence, games. Results are positions of keypoints with scores; they identify"
                " nobody."
            ),
            "",
            (
                "- One person: with several in the image the keypoints of different people may be"
                " mixed."
            ),
            (
                "- The whole image is stretched to a square, so that small people are found"
                " badly; `report.html` has the score by size."
            ),
            (
                "- Every keypoint always gets a position. Of one that is hidden or outside the"
                " image only a low score tells."
            ),
            (
                "- Scores are measured on the evaluation set named above. Other cameras, clothes,"
                " poses or light need a test of their own,"
            ),
            (
                "  and so does every group of people that the data may lack; nothing here was"
                " measured about that."
            ),
            "- Not for decisions about safety, health or persons' rights.",
            f"- {_quantised(job)}",
        ]
    )


def _quantised(job: BundleJob) -> str:
    if any(form.startswith("int8") for form in job.forms):
        return (
            'int8 files move keypoints against the float network (gate "parity" above); judge by'
            " their own scores, not by the float ones."
        )
    return "No int8 file was made."


def _origin(job: BundleJob) -> str:
    found = terms(job)
    evaluation = data_entry(job.evaluation_instances)
    training = data_entry(job.calibration_instances)
    lines = ["## Data, weights, licences", ""]
    lines += [
        f"- {part} labels: {_instances(entry)}"
        for part, entry in (("training", training), ("evaluation", evaluation))
    ]
    lines += [
        f"- data: {found.data}",
        f"- initial weights: {found.weights}",
        "- calibration: training images only, listed with their hashes in `calibration.json`",
        *(
            f"- {key}: {_plain(value)}"
            for key, value in job.provenance.items()
            if value is not None
        ),
        "",
        (
            "Heatpose is Apache-2.0. The weights are under the terms of what they were made from:"
            " the initial"
        ),
        "weights and the training data named above.",
    ]
    return "\n".join(lines)


def _instances(entry: Mapping[str, Any] | None) -> str:
    return "none" if entry is None else f"{entry['people']:,} people on {entry['images']:,} images"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


LIBRARY, TASK = "litert", "keypoint-detection"
_FORMS = {
    "torch": "torch",
    "onnx": "ONNX",
    "float32": "TFLite float32",
    "int8_pc": "TFLite int8 per channel",
    "int8_pt": "TFLite int8 per tensor",
}
_WEIGHTS = {
    "from_movenet": ("Google's MoveNet SinglePose Lightning, © Google, Apache-2.0", "apache-2.0"),
    "from_imagenet": (
        "torchvision's MobileNetV2 trained on ImageNet, BSD-3-Clause",
        "bsd-3-clause",
    ),
    "from_scratch": ("random numbers, which are under nobody's terms", "apache-2.0"),
    "from_checkpoint": (
        "an earlier Heatpose checkpoint, under the terms of what that one was made from",
        None,
    ),
}


@dataclass(frozen=True)
class Terms:
    """What a network was made from, as sentences, and under which licence it may be given away.

    Attributes:
        weights: The initial weights.
        data: Training, calibration and evaluation data.
        spdx: Identifier of the one licence that covers the weights; None where several terms meet
            or some are not known.
    """

    weights: str
    data: str
    spdx: str | None


def terms(job: BundleJob) -> Terms:
    """Read off what the run recorded about itself."""
    init, data = job.provenance.get("init"), job.provenance.get("data")
    maker = str(init.get("_target_", "")).rpartition(".")[2] if isinstance(init, Mapping) else ""
    weights, spdx = _WEIGHTS.get(maker, ("not recorded; ask whoever made the checkpoint", None))
    described: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    kind = described.get("kind")
    trained = job.provenance.get("checkpoint") != "initial.ckpt"
    if kind == "synthetic":
        message = "rendered people, made by Heatpose: Apache-2.0, no photographs"
    elif kind == "coco":
        message, spdx = _labels(job, described), spdx if not trained else None
    else:
        message, spdx = "not recorded", None
    return Terms(weights, message, spdx)


def _labels(job: BundleJob, data: Mapping[str, Any]) -> str:
    """COCO is known by its image ids; other labels in that form have terms of their own."""
    folders = [
        str(value)
        for value in (data.get("root"), data.get("eval_root"), *(data.get("extra") or ()))
        if value
    ]
    named = (
        "labels in COCO's form in"
        f" {', '.join(repr(PurePath(folder).name) for folder in dict.fromkeys(folders))}"
    )
    if is_coco(job):
        terms_of_coco = (
            "annotations CC BY 4.0, © COCO Consortium; photographs under the licences of their"
            " authors"
        )
        return f"{named}. The evaluation set is COCO val2017 ({terms_of_coco})"
    return f"{named}, under the terms of whoever collected them"


def is_coco(job: BundleJob) -> bool:
    """The evaluation set is made of images that are known to be COCO val2017's."""
    instances = job.evaluation_instances
    return bool(instances) and image_set(person.image_id for person in instances or ()) != "other"


def head(job: BundleJob, validations: Sequence[ValidationResult]) -> str:
    """The YAML head between its two lines of dashes.

    Licence, library, task, tags, data sets, and the scores as a model index.
    """
    import yaml

    entries = head_entries(job, validations)
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=120)}---"


def head_entries(job: BundleJob, validations: Sequence[ValidationResult]) -> dict[str, Any]:
    """The same as plain values, under the names that hubs know."""
    spdx = terms(job).spdx
    licence: dict[str, Any] = (
        {"license": spdx}
        if spdx
        else {
            "license": "other",
            "license_name": "see-weights-and-data",
            "license_link": "README.md",
        }
    )
    tags = [
        "pose-estimation",
        "human-pose",
        "single-person",
        "movenet",
        "tflite",
        "onnx",
        "heatpose",
    ]
    if any(validation.artefact.startswith("int8") for validation in validations):
        tags[-1:] = ["int8", "quantized", "stm32", "edge-ai", "heatpose"]
    data = {"datasets": ["coco"]} if is_coco(job) else {}
    return {
        **licence,
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": tags,
        **data,
        "metrics": ["oks", "ap"],
        **_index(job, validations),
    }


def _index(job: BundleJob, validations: Sequence[ValidationResult]) -> dict[str, Any]:
    """Scores per file; nothing where nothing was scored."""
    scored = [
        (validation, validation.report)
        for validation in validations
        if validation.report is not None
    ]
    if not scored:
        return {}
    images = scored[0][1].images
    name = (
        f"COCO val2017, {images} images with one person"
        if is_coco(job)
        else f"{images} images with one person"
    )
    metrics = []
    for validation, report in scored:
        metrics += [
            {
                "type": "oks",
                "name": f"mean OKS in percent, {_FORMS[validation.artefact]}",
                "value": round(report.oks, 2),
            },
            {
                "type": "ap",
                "name": f"COCO keypoint AP in percent, {_FORMS[validation.artefact]}",
                "value": round(report.ap, 2),
            },
        ]
    dataset = {"type": "coco" if is_coco(job) else "custom", "name": name}
    return {
        "model-index": [
            {
                "name": job.name,
                "results": [
                    {
                        "task": {"type": TASK, "name": "Single-person pose"},
                        "dataset": dataset,
                        "metrics": metrics,
                    }
                ],
            }
        ]
    }
