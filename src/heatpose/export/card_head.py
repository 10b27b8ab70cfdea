"""The head of a model card, which model hubs read, and whose terms weights and data are under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from heatpose.export.proof import Proof
from heatpose.reference.comparison import image_set

if TYPE_CHECKING:
    from heatpose.export.assembly import BundleJob

LIBRARY, TASK = "litert", "keypoint-detection"
_FORMS = {"torch": "torch", "onnx": "ONNX", "float32": "TFLite float32", "int8_pc": "TFLite int8 per channel", "int8_pt": "TFLite int8 per tensor"}
_WEIGHTS = {
    "from_movenet": ("Google's MoveNet SinglePose Lightning, © Google, Apache-2.0", "apache-2.0"),
    "from_imagenet": ("torchvision's MobileNetV2 trained on ImageNet, BSD-3-Clause", "bsd-3-clause"),
    "from_scratch": ("random numbers, which are under nobody's terms", "apache-2.0"),
    "from_checkpoint": ("an earlier Heatpose checkpoint, under the terms of what that one was made from", None),
}


@dataclass(frozen=True)
class Terms:
    """What a network was made from, as sentences, and under which licence it may be given away.

    Attributes:
        weights: The initial weights.
        data: Training, calibration and evaluation data.
        spdx: Identifier of the one licence that covers the weights; None where several terms meet or some are not known.
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
        told = "rendered people, made by Heatpose: Apache-2.0, no photographs"
    elif kind == "coco":
        told, spdx = _labels(job, described), spdx if not trained else None
    else:
        told, spdx = "not recorded", None
    return Terms(weights, told, spdx)


def _labels(job: BundleJob, data: Mapping[str, Any]) -> str:
    """COCO is known by its image ids; other labels in that form have terms of their own."""
    folders = [str(value) for value in (data.get("root"), data.get("eval_root"), *(data.get("extra") or ())) if value]
    named = f"labels in COCO's form in {', '.join(repr(PurePath(folder).name) for folder in dict.fromkeys(folders))}"
    if is_coco(job):
        terms_of_coco = "annotations CC BY 4.0, © COCO Consortium; photographs under the licences of their authors"
        return f"{named}. The evaluation set is COCO val2017 ({terms_of_coco})"
    return f"{named}, under the terms of whoever collected them"


def is_coco(job: BundleJob) -> bool:
    """The evaluation set is made of images that are known to be COCO val2017's."""
    people = job.evaluation_people
    return bool(people) and image_set(person.image_id for person in people or ()) != "other"


def head(job: BundleJob, proofs: Sequence[Proof]) -> str:
    """The YAML head between its two lines of dashes: licence, library, task, tags, data sets, and the scores as a model index."""
    import yaml

    return f"---\n{yaml.safe_dump(head_entries(job, proofs), sort_keys=False, allow_unicode=True, width=120)}---"


def head_entries(job: BundleJob, proofs: Sequence[Proof]) -> dict[str, Any]:
    """The same as plain values, under the names that hubs know."""
    spdx = terms(job).spdx
    licence: dict[str, Any] = {"license": spdx} if spdx else {"license": "other", "license_name": "see-weights-and-data", "license_link": "README.md"}
    tags = ["pose-estimation", "human-pose", "single-person", "movenet", "tflite", "onnx", "heatpose"]
    if any(proof.artefact.startswith("int8") for proof in proofs):
        tags[-1:] = ["int8", "quantized", "stm32", "edge-ai", "heatpose"]
    data = {"datasets": ["coco"]} if is_coco(job) else {}
    return {**licence, "library_name": LIBRARY, "pipeline_tag": TASK, "tags": tags, **data, "metrics": ["oks", "ap"], **_index(job, proofs)}


def _index(job: BundleJob, proofs: Sequence[Proof]) -> dict[str, Any]:
    """Scores per file; nothing where nothing was scored."""
    scored = [(proof, proof.report) for proof in proofs if proof.report is not None]
    if not scored:
        return {}
    images = scored[0][1].images
    name = f"COCO val2017, {images} images with one person" if is_coco(job) else f"{images} images with one person"
    metrics = []
    for proof, report in scored:
        metrics += [
            {"type": "oks", "name": f"mean OKS in percent, {_FORMS[proof.artefact]}", "value": round(report.oks, 2)},
            {"type": "ap", "name": f"COCO keypoint AP in percent, {_FORMS[proof.artefact]}", "value": round(report.ap, 2)},
        ]
    dataset = {"type": "coco" if is_coco(job) else "custom", "name": name}
    return {"model-index": [{"name": job.name, "results": [{"task": {"type": TASK, "name": "Single-person pose"}, "dataset": dataset, "metrics": metrics}]}]}
