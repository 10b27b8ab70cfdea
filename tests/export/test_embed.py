"""What files state about themselves, read by the formats' own packages; nothing else changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
import torch

from heatpose.bundles.bundle import file_entry, verify_bundle
from heatpose.errors import HeatposeError
from heatpose.evaluation.evaluate import EvalReport, evaluate
from heatpose.export.onnx import description, into_onnx, into_tflite
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13, Skeleton
from heatpose.runners import open_runner
from heatpose.runners.reading import describe_file, reading_of
from tests.exporting import Case

OWN = Skeleton(
    "own13",
    tuple(f"own_{name}" for name in reversed(ST_13.keypoints)),
    tuple(0.02 + 0.01 * k for k in range(13)),
    edges=(("own_head", "own_left_hip"),),
)
"""As many keypoints as a built-in skeleton: what would be assumed is wrong."""
ARTEFACTS = ("float32", "int8_pc", "int8_pt")
NAMES = ("net_64.onnx", *(f"net_64_{artefact}.tflite" for artefact in ARTEFACTS))


def stated(path: Path) -> dict[str, Any]:
    """The text, read by the package of the format."""
    if path.suffix == ".onnx":
        import onnx

        (entry,) = [e for e in onnx.load(str(path)).metadata_props if e.key == "heatpose"]
        text = entry.value
    else:
        model = tflite.Model.GetRootAs(path.read_bytes())
        (found,) = [
            e for e in map(model.Metadata, range(model.MetadataLength())) if e.Name() == b"heatpose"
        ]
        text = model.Buffers(found.Buffer()).DataAsNumpy().tobytes().decode()
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_a_bundle_has_metadata(case: Case, name: str) -> None:
    content = stated(case.result.folder / name)
    assert (
        content["skeleton"] == ST_13.to_dict()
        and content["preprocessing"] == Preprocessing(64).to_dict()
    )
    assert (
        content["output"]["form"] == "heatmaps" and content["output"]["values"] == "probabilities"
    )
    assert content["written_by"].startswith("heatpose ")
    assert describe_file(case.result.folder / name)["stated_by"] == content["written_by"]
    assert not verify_bundle(case.result.folder).findings


def write(path: Path, text: str) -> None:
    """Puts a text into a file in place of its own."""
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(str(path))
        del model.metadata_props[:]
        onnx.save(model, str(path))
        into_onnx(path, text)
    else:
        path.write_bytes(into_tflite(path.read_bytes(), text))


def scored(path: Path, case: Case) -> EvalReport:
    runner = open_runner(path, threads=1)
    skeleton = reading_of(runner).skeleton
    return evaluate(runner, case.evaluation, skeleton, progress=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_its_bundle_scores_the_same(case: Case, name: str, tmp_path: Path) -> None:
    """Other keypoint names, and an input in [0, 1]: neither could be guessed."""
    bundle, alone = tmp_path / "bundle", tmp_path / "alone"
    bundle.mkdir(), alone.mkdir()
    own = Preprocessing(64, divisor=255.0, shift=0.0)
    text = description(OWN, own, probabilities=True, pose=None)
    path = bundle / name
    shutil.copy(case.result.folder / name, path)
    write(path, text)
    known = {"skeleton": OWN.to_dict(), "preprocessing": own.to_dict()}
    (bundle / "manifest.json").write_text(json.dumps({"format": 1, **known}))
    shutil.copy(path, alone)
    there, here = scored(path, case), scored(alone / name, case)
    np.testing.assert_array_equal(there.poses, here.poses)
    assert there.oks_per_keypoint == here.oks_per_keypoint and list(here.oks_per_keypoint) == list(
        OWN.keypoints
    )
    reading = reading_of(open_runner(alone / name, threads=1))
    assert reading.skeleton == OWN and reading.line() == ""
    assert open_runner(alone / name).preprocessing == own


def parts(content: bytes) -> dict[str, Any]:
    """Everything in a file that means something but the text, by the schema's own accessors."""
    model = tflite.Model.GetRootAs(content)
    graph = model.Subgraphs(0)

    def data(index: int) -> bytes:
        buffer = model.Buffers(index)
        return bytes(buffer.DataAsNumpy()) if buffer.DataLength() else b""

    def tensor(i: int) -> tuple[Any, ...]:
        t = graph.Tensors(i)
        q = t.Quantization()
        numbers = None
        if q is not None and q.ScaleLength():
            numbers = (
                q.ScaleAsNumpy().tobytes(),
                q.ZeroPointAsNumpy().tobytes(),
                q.QuantizedDimension(),
            )
        return t.Name(), t.ShapeAsNumpy().tolist(), t.Type(), numbers, data(t.Buffer())

    def options(operator: Any) -> Any:
        union = operator.BuiltinOptions()
        if union is None:
            return None
        table = {
            name: getattr(tflite, name)
            for name in dir(tflite.BuiltinOptions)
            if hasattr(tflite, name)
        }
        kind = {v: k for k, v in vars(tflite.BuiltinOptions).items() if isinstance(v, int)}[
            operator.BuiltinOptionsType()
        ]
        values = table[kind]()
        values.Init(union.Bytes, union.Pos)
        fields = [
            f for f in vars(table[kind]) if f[0].isupper() and not f.startswith(("Init", "GetRoot"))
        ]
        simple = [f for f in fields if getattr(values, f).__code__.co_argcount == 1]
        return kind, {f: np.asarray(getattr(values, f)()).tolist() for f in simple}

    def operator(i: int) -> tuple[Any, ...]:
        o = graph.Operators(i)
        return o.OpcodeIndex(), o.InputsAsNumpy().tolist(), o.OutputsAsNumpy().tolist(), options(o)

    codes = map(model.OperatorCodes, range(model.OperatorCodesLength()))
    entries = map(model.Metadata, range(model.MetadataLength()))
    signatures = map(model.SignatureDefs, range(model.SignatureDefsLength()))
    return {
        "head": (model.Version(), model.Description(), model.SubgraphsLength(), graph.Name()),
        "ports": (graph.InputsAsNumpy().tolist(), graph.OutputsAsNumpy().tolist()),
        "tensors": [tensor(i) for i in range(graph.TensorsLength())],
        "operators": [operator(i) for i in range(graph.OperatorsLength())],
        "codes": [(c.BuiltinCode(), c.DeprecatedBuiltinCode(), c.Version()) for c in codes],
        "metadata": [(e.Name(), data(e.Buffer())) for e in entries if e.Name() != b"heatpose"],
        "signatures": [
            (s.SignatureKey(), s.SubgraphIndex())
            + tuple(
                (s.Inputs(i).Name(), s.Inputs(i).TensorIndex()) for i in range(s.InputsLength())
            )
            + tuple(
                (s.Outputs(i).Name(), s.Outputs(i).TensorIndex()) for i in range(s.OutputsLength())
            )
            for s in signatures
        ],
    }


def test_nothing_else_in_a_file_changes(case: Case, tmp_path: Path) -> None:
    text = description(OWN, Preprocessing(64), probabilities=True, pose=None)
    for artefact in ARTEFACTS:
        before = case.converted[artefact]
        after = into_tflite(before, text)
        assert (
            parts(after) == parts(before)
            and parts(before)["operators"]
            and parts(before)["metadata"]
        )
        assert into_tflite(before, text) == after  # reproducible
        assert into_tflite(after, text) == after  # in place of an older one
        (tmp_path / f"{artefact}.tflite").write_bytes(after)
        images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        kept = open_runner(case.result.folder / f"net_64_{artefact}.tflite", threads=1).heatmaps(
            images
        )
        np.testing.assert_array_equal(
            open_runner(tmp_path / f"{artefact}.tflite", threads=1).heatmaps(images), kept
        )


@pytest.mark.parametrize(
    "artefact", ["float32", "float16", "int8_pc", "int8_out", "float_io", "awkward"]
)
def test_the_converters_content_is_not_changed(
    small_models: dict[str, Path], artefact: str
) -> None:
    before = small_models[artefact].read_bytes()
    assert parts(into_tflite(before, "{}")) == parts(before)


def test_an_onnx_file_is_only_longer(case: Case, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "m.onnx"
    model = onnx.load(str(case.result.folder / "net_64.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    before = path.read_bytes()
    into_onnx(path, "{}")
    assert path.read_bytes().startswith(before)
    onnx.checker.check_model(onnx.load(str(path)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged metadata"),
        ("[]", "damaged metadata"),
        ('{"skeleton": 3}', "damaged metadata"),
        ('{"preprocessing": {"size": 5}}', "damaged metadata"),
        (
            json.dumps(
                {"skeleton": replace(OWN, keypoints=("a",), sigmas=(1,), edges=()).to_dict()}
            ),
            "its own metadata",
        ),
    ],
)
@pytest.mark.parametrize("name", ["net_64.onnx", "net_64_int8_pt.tflite"])
def test_a_damaged_text_is_refused(
    case: Case, tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    shutil.copy(case.result.folder / name, path)
    write(path, text)
    with pytest.raises(HeatposeError, match=said):
        open_runner(path)


def test_an_old_bundle_is_read_by_its_manifest(case: Case, tmp_path: Path) -> None:
    """Without a text the manifest counts, also for a renamed file, but not for a stranger."""
    import onnx

    model = onnx.load(str(case.result.folder / "net_64.onnx"))
    del model.metadata_props[:]
    path, renamed, stranger = (tmp_path / f"{name}.onnx" for name in ("net", "renamed", "stranger"))
    onnx.save(model, str(path))
    shutil.copy(path, renamed)
    model.doc_string = "another file"
    onnx.save(model, str(stranger))
    known = {"skeleton": OWN.to_dict(), "preprocessing": Preprocessing(64).to_dict()}
    (tmp_path / "manifest.json").write_text(
        json.dumps({**known, "files": {"net.onnx": file_entry(path)}})
    )
    assert open_runner(path).skeleton == open_runner(renamed).skeleton == OWN
    assert open_runner(stranger).skeleton is None


def test_weights_start_from_the_keypoints_that_a_file_states(case: Case, tmp_path: Path) -> None:
    """Names that no built-in skeleton has: without them the head would start at random."""
    path = tmp_path / "own.tflite"
    shutil.copy(case.result.folder / "net_64_float32.tflite", path)
    write(path, description(OWN, Preprocessing(64), probabilities=True, pose=None))
    network = from_movenet(MoveNet(13, width=0.35, norm=False), OWN, str(path)).eval()
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 2 - 1
        torch.testing.assert_close(network(image), case.network(image), atol=1e-3, rtol=1e-3)
