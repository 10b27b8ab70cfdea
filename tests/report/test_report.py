"""The page: its numbers are those of the bundle, what is missing is said.

And names cannot become markup.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from heatpose.errors import HeatposeError
from heatpose.report import REPORT, write_report
from heatpose.tflite.inspect import inspect_tflite
from tests.conftest import Heatpose
from tests.exporting import Case
from tests.report.conftest import Copy, Page, read_page

ARTEFACTS = ("torch", "onnx", "float32", "int8_pc", "int8_pt")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}</title></script>"
)


@pytest.fixture(scope="module")
def page(exported: Copy) -> Page:
    """The report that the export wrote."""
    return read_page(exported.folder / REPORT)


def _report(bundles: list[Path], tmp_path: Path, **settings: Any) -> Page:
    return read_page(write_report(bundles, tmp_path / "page.html", **settings))


# Numbers.


def test_the_summary_has_the_numbers_of_the_metrics(page: Page, exported: Copy) -> None:
    entries = exported.read("metrics.json")["artefacts"]
    rows = page.table("summary-table")
    assert len(rows) == len(ARTEFACTS)  # nothing was published for this kind
    for artefact, row in zip(ARTEFACTS, rows, strict=True):
        entry = entries[artefact]
        assert (
            row[3] == f"{entry['report']['oks']:.2f} ± {entry['report']['oks_standard_error']:.2f}"
        )
        assert (
            row[5] == f"{entry['report']['ap']:.2f}" and row[7] == f"{entry['milliseconds']:,.1f}"
        )
        if artefact != "torch":
            assert (
                row[4] == f"{entry['drop']:.2f} [{entry['drop_low']:.2f}, {entry['drop_high']:.2f}]"
            )
            assert row[6] == f"{(exported.folder / entry['file']).stat().st_size / 1024:,.0f}"


def test_plots_are_plotlys_and_show_the_metrics(page: Page, exported: Copy) -> None:
    entries = exported.read("metrics.json")["artefacts"]
    figures = page.figures
    for spec in figures.values():
        go.Figure(spec)  # knows every name and value that plotly takes
    traces = {trace["name"]: trace for trace in figures["keypoints"]["data"]}
    assert list(traces) == ["torch network", "int8 per channel", "int8 per tensor"]
    for artefact, trace in zip(("torch", "int8_pc", "int8_pt"), traces.values(), strict=True):
        assert dict(zip(trace["y"], trace["x"], strict=True)) == {
            k: v
            for k, v in entries[artefact]["report"]["oks_per_keypoint"].items()
            if v is not None
        }
    for artefact, name in (("int8_pc", "drift_0"), ("int8_pt", "drift_1")):
        for trace in figures[name]["data"]:
            drift = entries[artefact]["drift"]["per_keypoint"]
            assert dict(zip(trace["y"], trace["x"], strict=True)) == {
                key: value[trace["name"]] for key, value in drift.items()
            }
    (loss, limit) = figures["loss"]["data"]
    assert loss["x"] == [entries[artefact]["drop"] for artefact in ARTEFACTS[1:]]
    assert [
        x + up for x, up in zip(loss["x"], loss["error_x"]["array"], strict=True)
    ] == pytest.approx([entries[artefact]["drop_high"] for artefact in ARTEFACTS[1:]])
    assert limit["x"] == [100, 100]


def test_people_are_grouped_by_size(page: Page, exported: Copy, case: Case) -> None:
    report = exported.read("metrics.json")["artefacts"]["torch"]["report"]
    sides = [((p.box[2] / p.width) * (p.box[3] / p.height)) ** 0.5 for p in case.evaluation]
    scores = [entry["oks"] for entry in report["per_image"]]
    assert [entry["size"] for entry in report["per_image"]] == pytest.approx(sides, abs=1e-4)
    assert sum(group["people"] for group in report["oks_per_size"]) == len(sides)
    for group in report["oks_per_size"]:
        sweep_runs = [
            score
            for side, score in zip(sides, scores, strict=True)
            if group["from"] <= side < (group["to"] or np.inf)
        ]
        assert len(sweep_runs) == group["people"]
        assert group["oks"] == (pytest.approx(np.mean(sweep_runs)) if sweep_runs else None)
    trace = page.figures["sizes"]["data"][0]
    assert trace["y"] == [group["oks"] for group in report["oks_per_size"] if group["people"]]


def test_operators_are_counted_in_the_files(page: Page, exported: Copy) -> None:
    rows = {row[0].replace(" ", ""): row[1:] for row in page.table("operators-table")}
    for column, artefact in enumerate(("float32", "int8_pc", "int8_pt")):
        found = inspect_tflite(exported.folder / f"net_64_{artefact}.tflite")
        for name, count in found.operators.items():
            assert rows[name][column] == str(count)
        assert rows["multiply-accumulates,million"][column] == f"{(found.macs or 0) / 1e6:.1f}"


def test_costs_are_estimated_where_nothing_was_built(
    page: Page, exported: Copy, heatpose: Heatpose, tmp_path: Path
) -> None:
    ran = heatpose(
        "estimate",
        exported.folder / "net_64_int8_pc.tflite",
        "--target",
        "stm32n6",
        "--json",
        tmp_path / "estimate.json",
    )
    assert ran.status == 0, ran.err
    expected = json.loads((tmp_path / "estimate.json").read_text())
    for quantity in ("ms", "ram_kib", "flash_kib"):
        # the published rows of 13 keypoints come first
        trace = page.figures[f"pareto_stm32n6_{quantity}"]["data"][-1]
        assert trace["x"] == [expected[quantity]["value"]] and "estimated" in trace["text"][0]
        assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(
            expected[quantity]["low"]
        )
    assert "RAM and flash are not known" in page.said  # on the boards under Linux


def test_a_build_takes_the_place_of_the_estimate_unless_it_is_of_another_file(
    copied: Copy, tmp_path: Path
) -> None:
    folder = copied.folder / "stm32n6"
    folder.mkdir()
    digest = hashlib.sha256((copied.folder / "net_64_int8_pc.tflite").read_bytes()).hexdigest()
    facts = {
        "ram_internal_kib": 123.0,
        "flash_kib": 456.0,
        "ms": 7.25,
        "device": "STM32N6570-DK",
        "tool_version": "3.0.0-1 a",
    }
    result = {"model_sha256": digest, "status": "validated", **facts}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    page = _report([copied.folder], tmp_path)
    figures = page.figures
    for quantity, value, source in (
        ("ms", 7.25, "measured"),
        ("ram_kib", 123, "built"),
        ("flash_kib", 456, "built"),
    ):
        trace = figures[f"pareto_stm32n6_{quantity}"]["data"][-1]
        assert (
            trace["x"] == [value]
            and source in trace["text"][0]
            and trace["marker"]["symbol"] == "circle"
        )
    assert "Core 3.0.0-1" in page.root.text
    (folder / "result.json").write_text(
        json.dumps({**result, "model_sha256": "0" * 64}), encoding="utf-8"
    )
    page = _report([copied.folder], tmp_path)
    trace = page.figures["pareto_stm32n6_ms"]["data"][-1]
    assert trace["x"] != [7.25] and "belongs to another file" in page.root.text


def test_published_rows_of_the_kind_stand_beside_ours(lean: Copy, tmp_path: Path) -> None:
    lean.change(
        "manifest.json", lambda m: (m.update(resolution=192), m["network"].update(width=1.0))
    )
    rows = _report([lean.folder], tmp_path).table("summary-table")
    published = [row for row in rows if row[2].startswith("published")]
    assert [(row[3], row[8], row[9], row[10], row[11]) for row in published] == [
        ("52.10", "18.4", "1,674", "3,036", "58.0"),
        ("39.31", "–", "–", "–", "7.9"),
    ]


# The bundle's own report.


def test_the_manifest_knows_the_report(lean: Copy) -> None:
    def entry() -> dict[str, Any]:
        known: dict[str, Any] = lean.read("manifest.json")["files"][REPORT]
        return known

    path = lean.folder / REPORT
    assert entry() == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_report([lean.folder], path, title="Another title")
    assert entry()["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "Another title" in read_page(path).root.all("h1")[0].text
    assert not list(lean.folder.glob("*.part"))


def test_hashes_and_the_command_are_there(lean: Copy, tmp_path: Path) -> None:
    lean.change(
        "manifest.json",
        lambda m: m["provenance"].update(command="uv run train.py experiment=quickstart"),
    )
    page = _report([lean.folder], tmp_path)
    for name, entry in lean.read("manifest.json")["files"].items():
        assert [name, entry["sha256"], f"{entry['bytes']:,}"] in [
            [row[0].replace(" ", ""), *row[1:]] for row in page.table("files_0")
        ]
    assert "uv run train.py experiment=quickstart" in page.root.all("pre")[0].text


# Images.


def test_the_gallery_begins_with_the_worst(page: Page, exported: Copy) -> None:
    record = exported.read("metrics.json")["gallery"]
    per_image = {
        entry["image_id"]: entry["oks"]
        for entry in exported.read("metrics.json")["artefacts"]["int8_pc"]["report"]["per_image"]
    }
    assert record["artefact"] == "int8_pc"
    assert [entry["oks"] for entry in record["people"]] == pytest.approx(sorted(per_image.values()))
    figures = [
        figure for figure in page.root.all("figure") if figure.attributes.get("class") == "person"
    ]
    assert [figure.all("b")[0].text for figure in figures] == [
        f"{entry['oks']:.1f} %" for entry in record["people"]
    ]
    for figure, entry in zip(figures, record["people"], strict=True):
        label, prediction = figure.all("svg")
        assert len(label.all("circle")) == sum(v for *_, v in entry["label"])
        assert len(prediction.all("circle")) >= len(label.all("circle"))
        (photo,) = label.all("image")
        assert (prediction.all("use")[0].attributes["href"] or "") == f"#{photo.attributes['id']}"
        kind, _, data = (photo.attributes["href"] or "").partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/jpeg;base64" and (str(image.width), str(image.height)) == (
            photo.attributes["width"],
            photo.attributes["height"],
        )


def test_labels_lie_on_the_person(page: Page, exported: Copy, case: Case) -> None:
    """The cut image under a label's keypoint has the colour that the whole image has there."""
    record = exported.read("metrics.json")["gallery"]["people"]
    figures = [
        figure for figure in page.root.all("figure") if figure.attributes.get("class") == "person"
    ]
    instances = {person.image_id: person for person in case.evaluation}
    differences = []
    for figure, entry in zip(figures, record, strict=True):
        person = instances[entry["image_id"]]
        whole = np.asarray(Image.open(person.image_path).convert("RGB"), np.float64)
        svg = figure.all("svg")[0]
        small = np.asarray(
            Image.open(
                io.BytesIO(
                    base64.b64decode(
                        (svg.all("image")[0].attributes["href"] or "").partition(",")[2]
                    )
                )
            ),
            np.float64,
        )
        places = [
            (float(c.attributes["cx"] or 0), float(c.attributes["cy"] or 0))
            for c in svg.all("circle")
        ]
        for (x, y), (px, py) in zip(places, person.keypoints[person.labelled], strict=True):
            inside = 0 <= int(px) < whole.shape[1] and 0 <= int(py) < whole.shape[0]
            if inside and 0 <= int(x) < small.shape[1] and 0 <= int(y) < small.shape[0]:
                differences.append(np.abs(whole[int(py), int(px)] - small[int(y), int(x)]).mean())
    assert len(differences) > 50 and np.median(differences) < 12


def test_pictures_that_have_moved_are_found_or_missed_in_a_sentence(
    lean: Copy, case: Case, tmp_path: Path
) -> None:
    lean.change("metrics.json", lambda m: m["gallery"].update(folder=str(tmp_path / "gone")))
    assert "heatpose report --images FOLDER" in _report([lean.folder], tmp_path).said
    found = _report([lean.folder], tmp_path, images=case.evaluation[0].image_path.parent)
    assert len(found.root.all("image")) == len(case.evaluation)
    assert not _report([lean.folder], tmp_path, show_images=False).root.all("image")


# Several.


def test_several_are_compared_with_the_first(exported: Copy, lean: Copy, tmp_path: Path) -> None:
    def worse(metrics: dict[str, Any]) -> None:
        for entry in metrics["artefacts"]["int8_pc"]["report"]["per_image"]:
            entry["oks"] -= 3

    lean.change("metrics.json", worse)
    lean.change("manifest.json", lambda m: m.update(name="worse"))
    page = _report([exported.folder, lean.folder], tmp_path)
    rows = page.table("against_first")
    assert [row[1:] for row in rows if row[1] == "int8 per channel"] == [
        ["int8 per channel", "-3.00 [-3.00, -3.00]", "12"]
    ]
    assert {row[0] for row in page.table("summary-table")} == {"tiny", "worse"}
    assert [trace["name"] for trace in page.figures["keypoints"]["data"]] == [
        "tiny (int8_pc)",
        "worse (int8_pc)",
    ]
    assert page.root.all("h1")[0].text == "tiny, worse"
    lean.change("metrics.json", lambda m: m["artefacts"]["int8_pc"]["report"]["per_image"].pop())
    assert "scored on different images" in _report([exported.folder, lean.folder], tmp_path).said


def test_bundles_of_one_name_are_told_apart(lean: Copy, tmp_path: Path) -> None:
    other = Path(shutil.copytree(lean.folder, tmp_path / "elsewhere" / "tiny"))
    page = _report([lean.folder, other, lean.folder], tmp_path)
    assert len({row[0] for row in page.table("summary-table")}) == 2


# What is missing, damaged or hostile.


def test_a_bundle_of_a_manifest_alone_is_told_in_sentences(copied: Copy, tmp_path: Path) -> None:
    for path in copied.folder.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    (copied.folder / "manifest.json").write_text("{}", encoding="utf-8")
    said = _report([copied.folder], tmp_path).said
    scores = (
        "metrics.json is missing",
        "No board's cost is known",
        "Nothing was scored",
        "no int8 file whose drift",
    )
    parts = (*scores, "logs of the run", "No predictions", "no TFLite")
    assert all(part in said for part in parts), said


WRONG: dict[str, Any] = {
    "no report": lambda m: [entry.pop("report") for entry in m["artefacts"].values()],
    "scores of a wrong type": lambda m: [
        entry["report"].update(oks="many", oks_per_keypoint=3) for entry in m["artefacts"].values()
    ],
    "no artefacts": lambda m: m.update(artefacts=None),
    "artefacts of a wrong type": lambda m: m.update(
        artefacts={"int8_pc": [1], "torch": {"report": []}}
    ),
    "gallery of a wrong type": lambda m: m.update(
        gallery={"people": [{}], "folder": 3, "artefact": "int8_pc"}
    ),
    "drift of a wrong type": (
        lambda m: m["artefacts"]["int8_pc"].update(drift={"per_keypoint": [1]})
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_damaged_metrics_cost_a_sentence(lean: Copy, tmp_path: Path, wrong: str) -> None:
    lean.change("metrics.json", WRONG[wrong])
    page = _report([lean.folder], tmp_path)
    assert page.said and len(page.root.all("section")) == 10


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_metrics_that_are_no_json_cost_a_sentence(lean: Copy, tmp_path: Path, text: str) -> None:
    (lean.folder / "metrics.json").write_text(text, encoding="utf-8")
    assert "cannot be read" in _report([lean.folder], tmp_path).said


def test_names_are_text(lean: Copy, tmp_path: Path) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest.update(name=HOSTILE, model=HOSTILE, created=HOSTILE)
        manifest["provenance"] = {"command": HOSTILE, "checkpoint": HOSTILE}
        manifest["gates"][0]["sentence"] = HOSTILE
        manifest["skeleton"]["keypoints"][0] = HOSTILE
        manifest["skeleton"]["edges"] = [
            [HOSTILE if name == "head" else name for name in edge]
            for edge in manifest["skeleton"]["edges"]
        ]
        manifest["skeleton"]["merge"] = {}

    lean.change("manifest.json", rename)
    page = _report([lean.folder], tmp_path)
    assert len(page.root.all("script")) == 2 and not page.root.all("img")
    assert (
        page.root.all("h1")[0].text.replace(" ", "") == HOSTILE.replace(" ", "")
        and "{{ 7 * 7 }}" in page.root.all("title")[0].text
    )
    # of the keypoint, on an image
    assert any(HOSTILE in title.text for title in page.root.all("title"))
    traces = [trace for spec in page.figures.values() for trace in spec["data"]]
    shown = [
        text
        for trace in traces
        for text in (trace["name"], *map(str, trace.get("text", ())), *map(str, trace["y"]))
    ]
    assert any("alert(1)" in text for text in shown) and not any(
        "<script" in text or "<img" in text for text in shown
    )


def test_what_is_no_bundle_is_refused(heatpose: Heatpose, exported: Copy, tmp_path: Path) -> None:
    ran = heatpose("report", tmp_path, "--out", tmp_path / "page.html")
    assert ran.status == 1 and "is not a bundle" in ran.err and ran.err.count("\n") == 1
    ran = heatpose("report", exported.folder, "--out", tmp_path)
    assert ran.status == 1 and "cannot be written" in ran.err and list(tmp_path.iterdir()) == []
    with pytest.raises(HeatposeError, match="no bundle to report on"):
        write_report([], tmp_path / "page.html")


def test_the_command_writes_the_page_and_says_where(
    heatpose: Heatpose, exported: Copy, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "page.html"
    ran = heatpose("report", exported.folder, "--out", out, "--title", "Two & two", "--no-gallery")
    assert ran.status == 0 and str(out) in ran.out, ran.err
    assert read_page(out).root.all("h1")[0].text == "Two & two"
    shutil.rmtree(out.parent)
