"""Weights out of TFLite files.

Round trips through the export's own tools, in every number format, with one head and with four.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from heatpose.errors import HeatposeError
from heatpose.models.decode import decode_maps, decode_margins
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.models.tflite_import import import_movenet
from heatpose.models.tflite_walk import locate
from heatpose.pose.skeleton import COCO_17
from heatpose.quantize.equalize import fold_batch_norm
from heatpose.runners import open_runner
from heatpose.tflite.reader import read_graph

SIZE = 64


def original(files: Path, name: str) -> MoveNet:
    saved = torch.load(files / f"{name}.pt", weights_only=True)
    network = MoveNet(**saved["settings"])
    network.load_state_dict(saved["state"])
    return fold_batch_norm(network)


def outputs(network: MoveNet, size: int = SIZE) -> list[Tensor]:
    """The logits, or the maps of four heads."""
    torch.manual_seed(1)
    with torch.inference_mode():
        result = network(torch.rand(2, 3, size, size) * 2 - 1)
    return list(result) if isinstance(result, PoseMaps) else [result]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "size", "head_count"),
    [
        ("plain_float32", "plain", SIZE, 1),
        ("normed", "normed", SIZE, 1),
        ("thunder_float32", "thunder", 256, 4),
    ],
)
def test_float_files_give_the_same_network(
    files: Path, file: str, name: str, size: int, head_count: int
) -> None:
    network, source = import_movenet(files / f"{file}.tflite"), original(files, name)
    assert (
        network.settings == source.settings
        and not network.training
        and len(network.heads()) == head_count
    )
    wanted, found = outputs(source, size), outputs(network, size)
    # else this would compare biases only
    assert len(found) == head_count and min(want.std() for want in wanted) > 0.1
    for want, map_ in zip(wanted, found, strict=True):
        torch.testing.assert_close(map_, want, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "thunder"])
def test_float16_files_give_the_weights_rounded_to_half_precision(files: Path, name: str) -> None:
    network, source = import_movenet(files / f"{name}_float16.tflite"), original(files, name)
    assert network.settings == source.settings
    for (parameter, found), want in zip(
        network.named_parameters(), source.parameters(), strict=True
    ):
        torch.testing.assert_close(found, want.half().float(), atol=1e-7, rtol=1e-5, msg=parameter)
    for found_map, want_map in zip(outputs(network), outputs(source), strict=True):
        assert (found_map - want_map).std() < 0.02 * want_map.std()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["plain_int8_pc", "plain_int8_pt", "thunder_int8"])
def test_int8_files_give_the_weights_within_half_a_scale(files: Path, file: str) -> None:
    network, source = (
        import_movenet(files / f"{file}.tflite"),
        original(files, file.partition("_")[0]),
    )
    assert network.settings == source.settings
    for found, want in zip(network.conv_blocks(), source.conv_blocks(), strict=True):
        weight = want.conv.weight
        largest = (
            weight.abs().max()
            if file == "plain_int8_pt"
            else weight.abs().amax((1, 2, 3), keepdim=True)
        )
        assert ((found.conv.weight - weight).abs() <= 0.501 * largest / 127).all()
    if file != "plain_int8_pt":
        for found_map, want_map in zip(outputs(network), outputs(source), strict=True):
            assert (found_map - want_map).std() < 0.2 * want_map.std()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["plain_int8_pc", "plain_int8_pt", "thunder_int8"])
def test_int8_files_give_the_biases_within_half_a_scale(files: Path, file: str) -> None:
    source, network = (
        original(files, file.partition("_")[0]),
        import_movenet(files / f"{file}.tflite"),
    )
    graph = read_graph(files / f"{file}.tflite")
    operators = locate(graph, network).convolutions
    for found, want in zip(network.conv_blocks(), source.conv_blocks(), strict=True):
        quantization = graph.tensors[operators[found].inputs[2]].quantization
        assert (
            quantization is not None and found.conv.bias is not None and want.conv.bias is not None
        )
        scales = torch.from_numpy(quantization.scales.copy())
        assert ((found.conv.bias - want.conv.bias).abs() <= 0.501 * scales + 1e-7).all()


@pytest.mark.slow
@pytest.mark.parametrize("artefact", ["float32", "float16"])
def test_thunders_file_and_its_import_find_the_same_poses(files: Path, artefact: str) -> None:
    if find_spec("ai_edge_litert") is None:
        pytest.skip("the export extra is not installed")
    path = files / f"thunder_{artefact}.tflite"
    images = np.random.default_rng(1).integers(0, 256, (4, 256, 256, 3), np.uint8)
    with torch.inference_mode():
        maps = import_movenet(path)(
            torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        poses, clear = decode_maps(maps).numpy(), decode_margins(maps).numpy() > 4e-3
    difference = open_runner(path, threads=1).predict(images) - poses
    assert clear.mean() > 0.5
    assert np.hypot(difference[..., 0], difference[..., 1])[clear].max() * 256 < 0.05
    assert np.abs(difference[..., 2])[clear].max() < 1e-3


@pytest.mark.slow
def test_every_layer_is_located_once(files: Path) -> None:
    """Lightning's layers in order; Thunder's file shares one operator between two heads."""
    for name, shared_operators in (("plain_float32", 0), ("thunder_float32", 1)):
        graph = read_graph(files / f"{name}.tflite")
        network = import_movenet(files / f"{name}.tflite")
        located = locate(graph, network)
        assert set(located.convolutions) == set(network.conv_blocks())
        assert len(located.additions) == 13 and len(located.resizes) == 3
        operators = [
            o.index
            for found in (located.convolutions, located.additions, located.resizes)
            for o in found.values()
        ]
        assert len(operators) - len(set(operators)) == shared_operators
        kinds = {"CONV_2D", "DEPTHWISE_CONV_2D", "RESIZE_BILINEAR"}
        assert kinds <= {o.name for o in graph.operators}
        assert {o.index for o in graph.operators if o.name in kinds} <= set(operators)


@pytest.mark.slow
def test_the_heatmap_head_alone_is_taken_where_it_is_asked_for(files: Path) -> None:
    source = original(files, "thunder")
    network = import_movenet(files / "thunder_float32.tflite", MoveNet(17, 1.75))
    assert not network.four_heads
    torch.testing.assert_close(outputs(network)[0], outputs(source)[2])


@pytest.mark.slow
def test_heads_without_a_decode_give_the_heatmaps(files: Path) -> None:
    """And channels are read off the file, whatever they are."""
    network, source = import_movenet(files / "raw_heads.tflite"), original(files, "raw_heads")
    assert network.settings == {**source.settings, "heads": "heatmap"}
    torch.testing.assert_close(outputs(network)[0], outputs(source)[2], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_another_network_than_asked_for_is_refused_at_its_first_layer(files: Path) -> None:
    path = str(files / "plain_float32.tflite")
    for wanted, message in (
        (
            MoveNet(17, norm=False),
            (
                r"at stem, weights \(32, 3, 3, 3\) were expected, but the file has \(16, 3, 3, 3\);"
                r" set model\.width=0\.35, or"
            ),
        ),
        (
            MoveNet(17, 0.35, pyramid=(64, 32, 24, 32)),
            r"at pyramid step 2, pointwise, .*; set model\.pyramid=\[64,32,24,24\], or",
        ),
        (
            MoveNet(17, 0.35, last_channels=640),
            r"at last backbone convolution, .*; set model\.last_channels=1280, or",
        ),
        (
            MoveNet(17, 0.35, head_channels=64),
            r"at heatmap head, hidden, .*; set model\.head_channels=96, or",
        ),
        (
            MoveNet(17, 0.35, heads="all"),
            r"at centre head, .* heads are recognised: heatmap; set model\.heads=heatmap, or",
        ),
    ):
        with pytest.raises(HeatposeError, match="is not the configured network: " + message):
            from_movenet(wanted, COCO_17, path)
    network = from_movenet(MoveNet(17, 0.35), COCO_17, path)
    torch.testing.assert_close(outputs(network)[0], outputs(import_movenet(path))[0])


@pytest.mark.slow
def test_other_keypoints_take_the_channels_of_every_head(files: Path) -> None:
    chosen = replace(
        COCO_17,
        name="arms",
        keypoints=("right_wrist", "nose", "left_wrist"),
        sigmas=(0.1,) * 3,
        flip_pairs=(),
        edges=(),
    )
    network = from_movenet(
        MoveNet(3, 1.75, heads="all"), chosen, str(files / "thunder_float32.tflite")
    )
    whole = outputs(import_movenet(files / "thunder_float32.tflite"))
    rows = [COCO_17.index(name) for name in chosen.keypoints]
    pairs = [2 * row + axis for row in rows for axis in (0, 1)]
    for found, want, channels in zip(
        outputs(network), whole, ([0], pairs, rows, pairs), strict=True
    ):
        torch.testing.assert_close(found, want[:, channels])


def test_files_that_are_not_tflite_are_one_sentence(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.tflite", tmp_path / "empty.tflite"
    text.write_text("hello, this is no model")
    empty.touch()
    for path, message in (
        (text, "not a readable TFLite file"),
        (empty, "not a readable TFLite file"),
        (tmp_path / "none.tflite", "does not exist"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(HeatposeError, match=message) as caught:
            import_movenet(path)
        assert "\n" not in str(caught.value)
