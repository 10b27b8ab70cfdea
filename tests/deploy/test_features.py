"""What is expected of the ways of upsampling on a board."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from torch import nn

from heatpose.deploy.estimate import Estimate, estimate
from heatpose.deploy.features import allocate, as_bilinear, as_compiled, features_of
from heatpose.deploy.network_graph import graph_of_network
from heatpose.deploy.rules import check_target
from heatpose.deploy.targets import load_target
from heatpose.errors import HeatposeError
from heatpose.models.layers import ConvBlock, Upsampling
from heatpose.models.movenet import MoveNet
from heatpose.tflite.graph import Graph, Operator, Tensor

N6, MP2 = (load_target(name) for name in ("stm32n6", "stm32mp2"))
CELLS = 12 * 12 * 64 + 24 * 24 * 32 + 48 * 48 * 24  # of the three larger maps at 192


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    kinds: tuple[Upsampling, ...] = ("bilinear", "nearest", "transposed")
    return {
        kind: graph_of_network(MoveNet(17, norm=False, upsample=kind), 192, output="int8")
        for kind in kinds
    }


@pytest.fixture(scope="module")
def expected(graphs: dict[str, Graph]) -> dict[str, Estimate]:
    return {kind: estimate(graph, N6) for kind, graph in graphs.items()}


def test_what_is_counted(graphs: dict[str, Graph]) -> None:
    bilinear, nearest, transposed = (
        features_of(graphs[kind]) for kind in ("bilinear", "nearest", "transposed")
    )
    assert bilinear.resized == nearest.resized == CELLS and transposed.resized == 0
    assert nearest.macs - bilinear.macs == 9 * CELLS
    assert transposed.macs - bilinear.macs == 16 * (
        6 * 6 * 64 * 64 + 12 * 12 * 32 * 32 + 24 * 24 * 24 * 24
    )
    hopeful = features_of(graphs["nearest"], hardware=["RESIZE_NEAREST_NEIGHBOR"])
    assert hopeful.resized == 0 and hopeful.traffic == nearest.traffic + CELLS + CELLS // 4
    assert features_of(graphs["bilinear"], hardware=["RESIZE_NEAREST_NEIGHBOR"]) == bilinear


def test_the_bilinear_graph_behind_a_variant(graphs: dict[str, Graph]) -> None:
    assert as_bilinear(graphs["bilinear"]) is None
    for kind in ("nearest", "transposed"):
        graph = as_bilinear(graphs[kind])
        assert graph is not None and asdict(features_of(graph)) == asdict(
            features_of(graphs["bilinear"])
        )


def test_savings_are_differences_of_estimates(expected: dict[str, Estimate]) -> None:
    bilinear, nearest, transposed = (
        expected[kind] for kind in ("bilinear", "nearest", "transposed")
    )
    assert (
        bilinear.ms
        and nearest.ms
        and transposed.ms
        and nearest.saved_ms
        and transposed.saved_ms
        and bilinear.saved_ms is None
    )
    for variant in (nearest, transposed):
        assert (
            variant.ms
            and variant.saved_ms
            and variant.saved_ms.value == pytest.approx(bilinear.ms.value - variant.ms.value)
        )
        assert variant.saved_ms.low <= variant.saved_ms.value <= variant.saved_ms.high
    # On the processor repeating cells costs the same, and a convolution comes on top; on the NPU
    # both cost little.
    assert nearest.saved_ms.low < 0 and nearest.saved_ms.high > 1
    assert transposed.saved_ms.low > 1


def test_unknown_operators_are_reported(expected: dict[str, Estimate]) -> None:
    for kind, operator in (
        ("nearest", "RESIZE_NEAREST_NEIGHBOR"),
        ("transposed", "TRANSPOSE_CONV"),
    ):
        message = [text for text in expected[kind].outside if text.startswith("Whether")]
        assert (
            len(message) == 1
            and operator in message[0]
            and "not known" in message[0]
            and expected[kind].ms
        )
        assert expected[kind].ms.high >= 1.25 * expected[kind].ms.value  # type: ignore[union-attr]
    assert not expected["bilinear"].extrapolates and any(
        "resizes on the processor" in note for note in expected["bilinear"].notes
    )


def test_boards_whose_rows_say_nothing_about_resizes(graphs: dict[str, Graph]) -> None:
    found = estimate(graphs["transposed"], MP2)
    assert found.saved_ms is None and not any("Whether" in text for text in found.outside)


@pytest.mark.parametrize(
    ("kind", "operator"), [("nearest", "RESIZE_NEAREST_NEIGHBOR"), ("transposed", "TRANSPOSE_CONV")]
)
def test_the_rules_name_unconfirmed_operators(
    graphs: dict[str, Graph], kind: str, operator: str
) -> None:
    found = [
        finding
        for finding in check_target(graphs[kind], N6)
        if finding.rule == "target_unconfirmed_operator"
    ]
    assert [str(finding.operator).split()[0] for finding in found] == [operator] * 3
    own = replace(N6, rules=replace(N6.rules, unconfirmed={}))
    assert not [
        finding
        for finding in check_target(graphs[kind], own)
        if finding.rule == "target_unconfirmed_operator"
    ]


def test_padding_of_convolutions_costs_nothing(graphs: dict[str, Graph]) -> None:
    """As Keras writes a strided convolution: a PAD operator before it."""
    plain = graphs["bilinear"]
    first = next(o for o in plain.operators if o.name == "CONV_2D")
    image = plain.tensors[first.inputs[0]]
    shape = (1, image.shape[1] + 1, image.shape[2] + 1, image.shape[3])
    padded = replace(image, shape=shape)
    place = len(plain.tensors)
    pad = Operator(first.index, "PAD", (first.inputs[0],), (place,), {})
    reads = replace(first, inputs=(place, *first.inputs[1:]))
    later = [reads if o is first else o for o in plain.operators]
    listed = [*later[: first.index], pad, *later[first.index :]]
    operators = tuple(replace(o, index=i) for i, o in enumerate(listed))
    keras = replace(plain, tensors=(*plain.tensors, padded), operators=operators)
    npu = load_target("stm32n6").npu
    assert npu is not None and features_of(keras).traffic > features_of(plain).traffic
    assert features_of(as_compiled(keras)) == features_of(plain)
    assert allocate(as_compiled(keras), npu) == allocate(plain, npu)
    assert as_compiled(plain) is plain
    result = replace(keras, outputs=(place,))  # what others read stays
    assert as_compiled(result) is result


def test_the_last_bytes_of_a_run_of_memories_stay_free() -> None:
    """8 of npuRAM6 in ST's builds: 384 + 64 KiB do not share it, though 448 KiB are there."""
    npu = load_target("stm32n6").npu
    assert npu is not None
    shapes = ((1, 64, 1024, 6), (1, 64, 1024, 1))
    tensors = tuple(Tensor(i, f"t{i}", shape, "int8", None, None) for i, shape in enumerate(shapes))
    graph = Graph(tensors, (), (0, 1), (), "", 3)
    assert allocate(graph, npu).on_chip == 384 + 64
    whole = replace(npu, pools=[pool for pool in npu.pools if pool.name == "npuRAM6"])
    assert allocate(graph, whole).left_over == 64


def test_a_module_that_is_not_traced_ends_in_one_sentence() -> None:
    network = nn.Sequential(ConvBlock(3, 8, 3, 2), nn.GELU(), ConvBlock(8, 8, 1))
    with pytest.raises(HeatposeError, match="ConvBlock reads the result of a layer"):
        graph_of_network(network, 32)
