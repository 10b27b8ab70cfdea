"""Model card: the README of a bundle, for people and for model hubs.

To add a section: 1. text in `templates/card.md.j2`; 2. its values in `model_card`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from heatpose.deploy.estimate import estimate
from heatpose.deploy.targets import built_in, load_target
from heatpose.evaluation.published import image_set, markdown
from heatpose.export.job import ExportJob
from heatpose.export.result import BundleResult, cells
from heatpose.export.validate import SETS, ValidationResult
from heatpose.tflite.reader import read_graph


def model_card(
    job: ExportJob, result: BundleResult, validations: Sequence[ValidationResult]
) -> str:
    """The card as Markdown, with a head in YAML.

    Args:
        job: The export.
        result: Its table and the comparison with published results.
        validations: Of the network, then of every file, which must exist.
    """
    # Imported here: few commands need them.
    import yaml
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("heatpose.export", "templates"),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": lambda value: "-" if value is None else f"{value:.1f}",
        "plain": partial(json.dumps, default=str, ensure_ascii=False),
    }
    head = head_entries(job, validations)
    reports = {each.artefact: each.report for each in validations if each.report is not None}
    reference = validations[0].report
    protocol = reference.protocol.items() if reference else ()
    return environment.get_template("card.md.j2").render(
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120),
        job=job,
        result=result,
        cells=cells,
        keypoints=job.model.skeleton.keypoints,
        preprocessing=job.model.preprocessing,
        side=job.model.preprocessing.size,
        reference=reference,
        reports=reports,
        protocol=", ".join(f"{key} {value}" for key, value in protocol if key != "kernels"),
        published=markdown(result.published) if result.published else "",
        agreements=[
            (each.artefact, SETS[name], entry)
            for each in validations
            for name, entry in (each.agreement or {}).items()
            if entry is not None
        ],
        checks=[check for each in validations for check in each.checks],
        boards=list(_boards(validations)),
        int8=any(artefact.startswith("int8") for artefact in job.config.artefacts),
        terms=terms(job),
        rendered=isinstance(data := job.provenance.get("data"), Mapping)
        and data.get("kind") == "synthetic",
    )


def _boards(validations: Sequence[ValidationResult]) -> Iterator[tuple[str, ...]]:
    """Board, file, RAM, flash and time of the files that the built-in boards take, estimated."""
    paths = {each.artefact: each.path for each in validations if each.path is not None}
    for name in built_in():
        target = load_target(name)
        if target.artefact not in paths or target.estimator is None:
            continue
        expected = estimate(read_graph(paths[target.artefact]), target)
        yield (
            target.board,
            target.artefact,
            *(
                "not published" if value is None else str(value)
                for value in (expected.ram_kib, expected.flash_kib, expected.ms)
            ),
        )


LIBRARY, TASK = "litert", "keypoint-detection"
_TITLES = {
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
    "from_scratch": ("random numbers", "apache-2.0"),
    "from_checkpoint": (
        "an earlier Heatpose checkpoint, under the terms of what that one was made from",
        None,
    ),
}


@dataclass(frozen=True)
class Terms:
    """Origin of a network, as sentences, and the licence of its weights.

    Attributes:
        weights: The initial weights.
        data: Training, calibration and evaluation data.
        spdx: Identifier of the one licence that covers the weights; None where several terms meet
            or some are not known.
    """

    weights: str
    data: str
    spdx: str | None


def terms(job: ExportJob) -> Terms:
    """Origin and licence by the provenance of an export."""
    init, data = job.provenance.get("init"), job.provenance.get("data")
    maker = str(init.get("_target_", "")).rpartition(".")[2] if isinstance(init, Mapping) else ""
    weights, spdx = _WEIGHTS.get(maker, ("not recorded; ask the author of the checkpoint", None))
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


def _labels(job: ExportJob, data: Mapping[str, Any]) -> str:
    """COCO is recognised by its image ids; other labels in that format have their own terms."""
    sources = (data.get("root"), data.get("eval_root"), *(data.get("extra") or ()))
    names = dict.fromkeys(_source_name(source) for source in sources if source)
    named = f"labels in COCO's format: {', '.join(names)}"
    if is_coco(job):
        terms_of_coco = (
            "annotations CC BY 4.0, © COCO Consortium; photographs under the licences of their"
            " authors"
        )
        return f"{named}. The evaluation set is COCO val2017 ({terms_of_coco})"
    return f"{named}, under the terms of their authors"


def _source_name(source: object) -> str:
    """Name of a folder, or of a label file (`data.extra`)."""
    place = source.get("annotations") if isinstance(source, Mapping) else source
    return repr(PurePath(str(place)).name)


def is_coco(job: ExportJob) -> bool:
    """Whether all evaluation images are COCO val2017's."""
    instances = job.data.evaluation
    return bool(instances) and image_set(person.image_id for person in instances or ()) != "other"


def head_entries(job: ExportJob, validations: Sequence[ValidationResult]) -> dict[str, Any]:
    """The head as plain values under the keys of model hubs.

    Licence, library, task, tags, data sets, and the scores as a model index.
    """
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


def _index(job: ExportJob, validations: Sequence[ValidationResult]) -> dict[str, Any]:
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
                "name": f"mean OKS in percent, {_TITLES[validation.artefact]}",
                "value": round(report.oks, 2),
            },
            {
                "type": "ap",
                "name": f"COCO keypoint AP in percent, {_TITLES[validation.artefact]}",
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
