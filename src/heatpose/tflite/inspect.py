"""Inspection of model files (sizes, ports, findings), and the acceptance check of artefacts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.tflite.graph import Graph, Tensor, macs, peak_activation_bytes, weights, weights_bytes
from heatpose.tflite.lint import INTEGER_IMAGES, Finding, find_all, takes_raw_bytes
from heatpose.tflite.reader import read_graph

Granularity = Literal["per_channel", "per_tensor", "float"]
Artefact = Literal["float32", "int8_pc", "int8_pt"]
Output = Literal["float32", "int8"]  # output type of an int8 file

# Rules that fail the acceptance check of exported files, whatever their severity.
_FAILING_ALWAYS = {"pad_operator", "transpose_operator", "custom_operator"}
_FAILING_INT8 = _FAILING_ALWAYS | {
    "raw_bytes_input",
    "float_operator",
    "weight_granularity_mixed",
    "weight_zero_point",
}


@dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
        name: Name in the file.
        shape: Dimensions, NHWC for images in TFLite, NCHW in ONNX; -1 for dynamic ones.
        dtype: "uint8", "int8", "float32", ...
        scale: Quantisation scale; None if not quantised.
        zero_point: Zero point; None if not quantised.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection.

    Attributes:
        sha256: SHA-256 of the file.
        bytes: Size of the file.
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
        operators: Operator name -> count.
        granularity: Granularity of weight scales; "per_channel" if any tensor has several.
        full_integer: Whether inputs are integers and all operators but a final DEQUANTIZE per
            output compute on integers.
        weights_bytes: Bytes of constants that operators read, shared ones once.
        macs: Multiply-accumulates of one inference; None for ONNX.
        peak_activation_bytes: Peak bytes of live activations; None for ONNX.
        findings: Findings of the lint rules.
    """

    sha256: str
    bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    granularity: Granularity
    full_integer: bool
    weights_bytes: int
    macs: int | None
    peak_activation_bytes: int | None
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        plain = asdict(self)
        for port in (*plain["inputs"], *plain["outputs"]):
            port["shape"] = list(port["shape"])
        return plain | {key: list(plain[key]) for key in ("inputs", "outputs", "findings")}


def inspect_tflite(path: str | Path) -> Inspection:
    """Reads a TFLite file without an interpreter.

    Raises:
        HeatposeError: The file is missing or not readable.
    """
    graph = read_graph(path)
    content = Path(path).read_bytes()
    findings = tuple(find_all(graph))
    inputs = tuple(_port(graph.tensors[i]) for i in graph.inputs)
    integers = bool(inputs) and all(port.dtype in INTEGER_IMAGES for port in inputs)
    return Inspection(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        inputs=inputs,
        outputs=tuple(_port(graph.tensors[i]) for i in graph.outputs),
        operators=dict(Counter(operator.name for operator in graph.operators).most_common()),
        granularity=_granularity(graph),
        full_integer=integers and not any(finding.rule == "float_operator" for finding in findings),
        weights_bytes=weights_bytes(graph),
        macs=macs(graph),
        peak_activation_bytes=peak_activation_bytes(graph),
        findings=findings,
    )


def _port(tensor: Tensor) -> Port:
    scale, zero_point = None, None
    if tensor.quantization is not None:
        scale = float(tensor.quantization.scales[0])
        zero_point = int(tensor.quantization.zero_points[0])
        if not math.isfinite(scale):  # not representable in JSON; reported by lint
            scale = None
    return Port(tensor.name, tensor.shape, tensor.dtype, scale, zero_point)


def _granularity(graph: Graph) -> Granularity:
    counts = [
        weight.quantization.scales.size
        for _, weight in weights(graph)
        if weight.quantization is not None
    ]
    if not counts:
        return "float"
    return "per_channel" if max(counts) > 1 else "per_tensor"


def inspect_onnx(path: str | Path) -> Inspection:
    """Reads an ONNX file; values that only exist for TFLite are None or False.

    Raises:
        HeatposeError: The file is missing or not readable, or the package `onnx` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise HeatposeError(
            f"'{path}' does not exist or is not a file; give the path of an ONNX model."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    model = load_onnx(path, content)
    graph = model.graph
    stored = {tensor.name: _onnx_bytes(tensor) for tensor in graph.initializer}
    inline = [
        attribute.t
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    return Inspection(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        inputs=tuple(_onnx_port(value) for value in graph.input if value.name not in stored),
        outputs=tuple(_onnx_port(value) for value in graph.output),
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        granularity="float",
        full_integer=False,
        weights_bytes=sum(stored.values()) + sum(map(_onnx_bytes, inline)),
        macs=None,
        peak_activation_bytes=None,
        findings=(),
    )


def load_onnx(path: Path, content: bytes) -> Any:
    """Parses an ONNX file's bytes to a `ModelProto`.

    Raises:
        HeatposeError: They are not an ONNX model, or the package `onnx` is not installed.
    """
    try:
        import onnx  # part of the export extra only
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise HeatposeError(
            "Reading ONNX files needs the package 'onnx': install heatpose[export]."
        ) from error
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise _not_onnx(path) from error
    texts = [
        *(n.op_type for n in model.graph.node),
        *(v.name for v in (*model.graph.input, *model.graph.output)),
    ]
    if not all(isinstance(text, str) for text in texts):  # bytes if a damaged name is not UTF-8
        raise _not_onnx(path)
    if not model.ir_version or not model.graph.node:  # any bytes may parse as an empty message
        raise HeatposeError(f"'{path}' is not an ONNX file or has no graph; export it again.")
    return model


def _not_onnx(path: Path) -> HeatposeError:
    return HeatposeError(f"'{path}' is not a readable ONNX file; export it again.")


def _onnx_bytes(tensor: Any) -> int:
    """Bytes of a stored tensor from its dimensions; its values may be in another file."""
    return int(math.prod(tensor.dims) * _onnx_dtype(tensor.data_type).itemsize)


def _onnx_port(value: Any) -> Port:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return Port(value.name, shape, str(_onnx_dtype(kind.elem_type)), None, None)


def _onnx_dtype(number: int) -> Any:
    from onnx import helper

    try:
        return helper.tensor_dtype_to_np_dtype(number)
    except KeyError as error:
        raise HeatposeError(
            f"The ONNX file has a tensor of the unknown type number {number}."
        ) from error


def check_artefact(
    inspection: Inspection, expect: Artefact, preprocessing: Preprocessing | None = None
) -> list[Finding]:
    """Acceptance check "file": operators, types and quantisation are those of the artefact.

    int8: one uint8 image [1, S, S, 3] whose scale and zero point accept raw bytes; float32 or int8
    outputs; integer operators only, except a final DEQUANTIZE; symmetric weights with one scale per
    output channel ("int8_pc") or per tensor ("int8_pt"). "float32": float32 throughout. All: no
    PAD, TRANSPOSE or custom operators.

    Args:
        inspection: Inspection of a TFLite file.
        expect: Expected artefact.
        preprocessing: Input range of the training; None accepts any usual range.

    Returns:
        Violations, all of severity "error"; empty if the check passes.
    """
    checked = _FAILING_ALWAYS if expect == "float32" else _FAILING_INT8
    violated = [
        replace(finding, severity="error")
        for finding in inspection.findings
        if finding.severity == "error" or finding.rule in checked
    ]
    own = (
        _float_errors(inspection)
        if expect == "float32"
        else _int8_errors(inspection, expect, preprocessing)
    )
    return violated + [
        Finding("error", rule, None, message)
        for rule, message in (*_image_errors(inspection), *own)
    ]


def _image_errors(inspection: Inspection) -> Iterator[tuple[str, str]]:
    shapes = [port.shape for port in inspection.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] != 3:
        yield (
            "input_layout",
            f"The input is {[list(shape) for shape in shapes]} instead of one image [1, S, S, 3].",
        )


def _float_errors(inspection: Inspection) -> Iterator[tuple[str, str]]:
    dtypes = sorted({port.dtype for port in (*inspection.inputs, *inspection.outputs)})
    if dtypes != ["float32"]:
        yield "port_dtype", f"Inputs and outputs are {', '.join(dtypes)} instead of float32."
    if inspection.granularity != "float" or {"QUANTIZE", "DEQUANTIZE"} & set(inspection.operators):
        yield (
            "weight_granularity",
            "Weights or activations are quantised in a file named float32.",
        )


def _int8_errors(
    inspection: Inspection, expect: Artefact, preprocessing: Preprocessing | None
) -> Iterator[tuple[str, str]]:
    wanted = "per_channel" if expect == "int8_pc" else "per_tensor"
    if inspection.granularity != wanted:
        yield (
            "weight_granularity",
            f"Weights are {inspection.granularity} in a file named {expect}.",
        )
    for port in inspection.outputs:
        if port.dtype not in ("float32", "int8"):
            yield "port_dtype", f"Output '{port.name}' is {port.dtype} instead of float32 or int8."
    if preprocessing is None:
        return
    scale, zero = 1 / preprocessing.divisor, preprocessing.shift * preprocessing.divisor
    for port in inspection.inputs:
        found = (port.scale or 0.0, float(port.zero_point or 0))
        if not takes_raw_bytes(*found, (scale, zero)):
            message = f"Input scale and zero point are {found[0]:.6g} and {found[1]:.0f}, "
            yield (
                "preprocessing",
                message + f"but the network was trained with {scale:.6g} and {zero:g}.",
            )
