"""The model card's head, as a hub reads it, and whose terms the card names."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from heatpose.evaluation.published import known_images
from heatpose.export.card import head_entries, terms
from tests.exporting import Case


@dataclass
class Job:
    """What the head takes from an export."""

    provenance: dict[str, Any]
    name: str = "net"
    data: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(evaluation=[]))


def _read(case: Case) -> tuple[dict[str, Any], str]:
    text = (case.result.folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


def test_the_head_is_yaml_with_the_keys_that_hubs_read(case: Case) -> None:
    head, _ = _read(case)
    assert (head["library_name"], head["pipeline_tag"]) == ("litert", "keypoint-detection")
    assert {"pose-estimation", "tflite", "int8"} <= set(head["tags"]) and len(
        set(head["tags"])
    ) == len(head["tags"])
    # "random" says nothing about terms
    assert head["license"] == "other" and head["license_name"] and head["license_link"]
    assert "datasets" not in head  # rendered people are in no hub
    assert set(head["metrics"]) == {"oks", "ap"}


def test_the_model_index_has_the_scores(case: Case) -> None:
    (model,) = _read(case)[0]["model-index"]
    (result,) = model["results"]
    metrics = json.loads((case.result.folder / "metrics.json").read_text())["artefacts"]
    assert model["name"] == "tiny" and set(result) == {"task", "dataset", "metrics"}
    assert result["task"]["type"] == "keypoint-detection" and {"type", "name"} <= set(
        result["dataset"]
    )
    found = [(entry["type"], entry["value"]) for entry in result["metrics"]]
    assert found == [
        (kind, round(entry["report"][key], 2))
        for entry in metrics.values()
        for kind, key in (("oks", "oks"), ("ap", "ap"))
    ]
    assert len({entry["name"] for entry in result["metrics"]}) == len(found)


def test_the_card_has_the_facts_for_users(case: Case) -> None:
    body = _read(case)[1]
    for heading in (
        "Files",
        "Score",
        "Acceptance checks",
        "On a board",
        "Use",
        "Intended use and limits",
        "Data, weights, licences",
    ):
        assert f"\n## {heading}\n" in body
    assert (
        "STM32N6570-DK | int8_pc" in body
        and "STM32MP257F-EV1 | int8_pt" in body
        and "40 images" in body
        and "12 images" in body
    )
    assert "heatpose predict MODEL" in body and "one person" in body.lower()


MOVENET, SCRATCH, IMAGENET = (
    {"_target_": f"heatpose.models.init.from_{name}"} for name in ("movenet", "scratch", "imagenet")
)
COCO, SYNTHETIC = {"kind": "coco", "root": "/data/people", "extra": []}, {"kind": "synthetic"}


@pytest.mark.parametrize(
    ("init", "data", "checkpoint", "licence"),
    [
        (MOVENET, COCO, "initial.ckpt", "apache-2.0"),  # Google's own weights
        (MOVENET, COCO, "best.ckpt", "other"),  # learnt from labels with terms of their own
        (MOVENET, SYNTHETIC, "best.ckpt", "apache-2.0"),
        (SCRATCH, SYNTHETIC, "best.ckpt", "apache-2.0"),
        (IMAGENET, SYNTHETIC, "best.ckpt", "bsd-3-clause"),
        ("random", SYNTHETIC, "best.ckpt", "other"),
        (SCRATCH, None, "best.ckpt", "other"),
    ],
)
def test_one_licence_is_named_only_where_one_covers_all(
    init: Any, data: Any, checkpoint: str, licence: str
) -> None:
    job: Any = Job({"init": init, "data": data, "checkpoint": checkpoint})
    assert head_entries(job, [])["license"] == licence


def test_coco_is_known_by_its_images(tmp_path: Path) -> None:
    instances = [SimpleNamespace(image_id=image) for image in sorted(known_images())[:5]]
    job: Any = Job(
        {"init": MOVENET, "data": COCO, "checkpoint": "best.ckpt"},
        data=SimpleNamespace(evaluation=instances),
    )
    assert (
        head_entries(job, [])["datasets"] == ["coco"]
        and "CC BY 4.0" in terms(job).data
        and "'people'" in terms(job).data
    )
    job.data.evaluation = [SimpleNamespace(image_id=3)]
    assert "datasets" not in head_entries(job, []) and "CC BY" not in terms(job).data
