"""The ONNX file against torch, through onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.export.onnx import export_onnx
from heatpose.models.movenet import MoveNet

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")


def a_network() -> MoveNet:
    torch.manual_seed(0)
    return MoveNet(3, width=0.35)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_file_computes_the_same_as_torch(tmp_path: Path, sigmoid: bool) -> None:
    network = a_network().train()
    export_onnx(network, 64, tmp_path / "net.onnx", sigmoid=sigmoid)
    assert network.training  # left as it was
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["heatmaps"], {"image": image})
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(image))
    expected = expected.sigmoid() if sigmoid else expected
    assert found.shape == (1, 3, 16, 16)
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_inputs_and_outputs_of_the_file(tmp_path: Path) -> None:
    export_onnx(a_network(), 96, tmp_path / "net.onnx", sigmoid=True)
    model = onnx.load(str(tmp_path / "net.onnx"))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    assert names == ["image", "heatmaps"]
    sides = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == [1, 3, 96, 96]
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert model.graph.node[-1].op_type == "Sigmoid"


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(a_network(), 64, tmp_path / name, sigmoid=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_nothing_is_left_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeatposeError, match="multiple of 32"):
        export_onnx(a_network(), 100, tmp_path / "net.onnx", sigmoid=True)

    def breaks(module: object, images: object, path: str, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", breaks)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(a_network(), 64, tmp_path / "net.onnx", sigmoid=True)
    assert list(tmp_path.iterdir()) == []
