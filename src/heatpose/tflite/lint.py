"""Lint rules for TFLite graphs: errors, unusual and slow operators.

Severities: "error" gives wrong results, "warning" costs speed or accuracy on an integer
accelerator, "info" needs no action. `inspect.check_artefact` is stricter for exported files.

To add a rule: 1. write `_name(graph) -> Iterator[Finding]`; 2. list it in `find_all`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from heatpose.tflite.graph import ABSENT, Graph, Operator, Quantization, Tensor, weights

Severity = Literal["error", "warning", "info"]
INTEGER_IMAGES = ("uint8", "int8")
FLOATS = ("float16", "float32", "float64", "bfloat16")
# (scale, zero point, range) of uint8 inputs for the usual normalisations of raw bytes.
RAW_BYTES = ((1 / 127.5, 127.5, "[-1, 1]"), (1 / 255, 0.0, "[0, 1]"), (1.0, 0.0, "[0, 255]"))
_BIAS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Finding:
    """A finding of a lint rule.

    Attributes:
        severity: "error", "warning" or "info".
        rule: Stable name of the rule, for filters.
        operator: "NAME #index"; None for the file as a whole.
        message: A sentence.
    """

    severity: Severity
    rule: str
    operator: str | None
    message: str


def find_all(graph: Graph) -> list[Finding]:
    """Applies all rules; findings on the file as a whole come first."""
    rules = (
        *(_inputs, _outputs, _float_operators, _layout_operators, _unknown_operators),
        *(_weight_granularity, _weight_zero_points, _bias_scales, _ranges),
    )
    return [finding for rule in rules for finding in rule(graph)]


def label(operator: Operator) -> str:
    """Name of an operator in findings."""
    return f"{operator.name} #{operator.index}"


def takes_raw_bytes(scale: float, zero_point: float, wanted: tuple[float, float]) -> bool:
    """Whether a uint8 input's scale and zero point agree with `wanted` (scale, zero point).

    Tolerances: 1/255 relative for the scale (one step at the end of the range), 0.5 for the zero
    point (rounding of 127.5).
    """
    return abs(scale / wanted[0] - 1) <= 1 / 255 and abs(zero_point - wanted[1]) <= 0.5


def _inputs(graph: Graph) -> Iterator[Finding]:
    """Reports inputs whose quantisation is not one of the usual normalisations."""
    for tensor in (graph.tensors[i] for i in graph.inputs):
        message = _raw_byte_message(tensor)
        if message:
            severity: Severity = (
                "warning" if tensor.dtype == "uint8" and tensor.quantization else "info"
            )
            yield Finding(severity, "raw_bytes_input", None, f"Input '{tensor.name}' {message}")


def _raw_byte_message(tensor: Tensor) -> str:
    if tensor.dtype != "uint8":
        return f"is {tensor.dtype}: the caller must convert raw bytes."
    if tensor.quantization is None:
        return "is uint8 without a scale: the graph normalises raw bytes itself."
    scale, zero = float(tensor.quantization.scales[0]), float(tensor.quantization.zero_points[0])
    if any(takes_raw_bytes(scale, zero, known[:2]) for known in RAW_BYTES):
        return ""
    usual = ", ".join(known[2] for known in RAW_BYTES)
    meaning = (
        f"a raw byte 0 means {(0 - zero) * scale:.4g} and 255 means {(255 - zero) * scale:.4g}"
    )
    return f"has scale {scale:.6g} and zero point {zero:.0f}: {meaning}, none of {usual}."


def _outputs(graph: Graph) -> Iterator[Finding]:
    """Reports sigmoid outputs whose stored range is narrower than (0, 1): scores saturate."""
    for index in graph.outputs:
        passed = []
        operator = graph.producer(index)
        while operator is not None and operator.name in ("DEQUANTIZE", "QUANTIZE", "RESHAPE"):
            passed.append(graph.tensors[operator.outputs[0]])
            operator = graph.producer(operator.inputs[0])
        if operator is None or operator.name != "LOGISTIC":
            continue
        for tensor in (*passed, graph.tensors[operator.outputs[0]]):
            low, high = _stored_range(tensor)
            if low > 0.02 or high < 0.98:
                message = (
                    f"Scores saturate: '{tensor.name}' holds {low:.4g} to {high:.4g} of a sigmoid's"
                    " 0 to 1."
                )
                yield Finding("warning", "output_saturation", label(operator), message)


def _stored_range(tensor: Tensor) -> tuple[float, float]:
    """Smallest and largest representable value of a quantised activation; else infinite."""
    if tensor.quantization is None or tensor.dtype not in INTEGER_IMAGES:
        return -np.inf, np.inf
    limits, zero = np.iinfo(tensor.dtype), float(tensor.quantization.zero_points[0])
    scale = float(tensor.quantization.scales[0])
    return (limits.min - zero) * scale, (limits.max - zero) * scale


def _float_operators(graph: Graph) -> Iterator[Finding]:
    """Reports operators on floats, except a final DEQUANTIZE; one finding for a float network."""
    active = [t for o in graph.operators for t in _activations(graph, (*o.inputs, *o.outputs))]
    floating = [t for t in active if t.dtype in FLOATS]
    if floating and not any(t.quantization is not None for t in active):
        message = f"Computes in {floating[0].dtype}: no activation is quantised."
        yield Finding("info", "float_operator", None, message)
        return
    for operator in graph.operators:
        floats = [
            t for t in _tensors(graph, (*operator.inputs, *operator.outputs)) if t.dtype in FLOATS
        ]
        if floats and not _is_final_dequantize(graph, operator):
            message = f"Reads or writes {floats[0].dtype}, so the graph is not integer only."
            yield Finding("warning", "float_operator", label(operator), message)


def _is_final_dequantize(graph: Graph, operator: Operator) -> bool:
    is_output = operator.name == "DEQUANTIZE" and operator.outputs[0] in graph.outputs
    return is_output and graph.tensors[operator.inputs[0]].dtype in INTEGER_IMAGES


def _tensors(graph: Graph, indices: tuple[int, ...]) -> list[Tensor]:
    return [graph.tensors[i] for i in indices if i != ABSENT]


def _activations(graph: Graph, indices: tuple[int, ...]) -> list[Tensor]:
    return [tensor for tensor in _tensors(graph, indices) if graph.constant(tensor.index) is None]


def _layout_operators(graph: Graph) -> Iterator[Finding]:
    """Reports operators that only move data."""
    for operator in graph.operators:
        if operator.name in ("PAD", "PADV2", "MIRROR_PAD"):
            message = (
                "Explicit padding is a pass over memory; a convolution with SAME padding needs"
                " none."
            )
            yield Finding("warning", "pad_operator", label(operator), message)
        if operator.name == "TRANSPOSE":
            message = (
                "A transpose is a pass over memory, left over from an NCHW to NHWC conversion."
            )
            yield Finding("warning", "transpose_operator", label(operator), message)


def _unknown_operators(graph: Graph) -> Iterator[Finding]:
    """Reports custom and TensorFlow ("Flex") operators, which standard interpreters lack."""
    # some 200 modules, already loaded by the reader
    from tflite import BUILTIN_OPCODE2NAME

    builtin = set(BUILTIN_OPCODE2NAME.values())
    for operator in graph.operators:
        if operator.name not in builtin:
            message = (
                "Not a built-in TFLite operator: compilers and standard interpreters reject it."
            )
            yield Finding("warning", "custom_operator", label(operator), message)


def _weight_granularity(graph: Graph) -> Iterator[Finding]:
    """Reports weights whose granularity differs from that of the file, or with a wrong axis."""
    quantised = [
        (o, w)
        for o, w in weights(graph)
        if w.quantization is not None and w.dtype in INTEGER_IMAGES
    ]
    per_channel = any(w.quantization.scales.size > 1 for _, w in quantised if w.quantization)
    for operator, weight in weights(graph):
        axis = 3 if operator.name == "DEPTHWISE_CONV_2D" else 0
        scales = 0 if weight.quantization is None else weight.quantization.scales.size
        if scales > 1 and weight.quantization and weight.quantization.axis != axis:
            message = (
                f"Weights are scaled along dimension {weight.quantization.axis}; output channels"
                f" are {axis}."
            )
            yield Finding("error", "weight_axis", label(operator), message)
        wanted = weight.shape[axis] if per_channel else 1
        if quantised and scales != wanted:
            message = f"Weights have {scales} scales where the rest of the file has one per "
            message += f"output channel, here {wanted}." if per_channel else "tensor."
            yield Finding("warning", "weight_granularity_mixed", label(operator), message)


def _weight_zero_points(graph: Graph) -> Iterator[Finding]:
    """Reports weights with a zero point: int8 weights are symmetric, and kernels ignore it."""
    for operator, weight in weights(graph):
        if weight.quantization is not None and weight.quantization.zero_points.any():
            legacy = weight.dtype == "uint8"
            message = "Weights have a zero point other than 0" + (
                ", the older uint8 scheme." if legacy else "."
            )
            yield Finding(
                "warning" if legacy else "error", "weight_zero_point", label(operator), message
            )


def _bias_scales(graph: Graph) -> Iterator[Finding]:
    """Reports biases whose scale is not input scale x weight scale, that of the accumulator."""
    for operator, weight in weights(graph):
        bias_index = operator.inputs[3 if operator.name == "TRANSPOSE_CONV" else 2 :][:1]
        image = graph.tensors[operator.inputs[2 if operator.name == "TRANSPOSE_CONV" else 0]]
        bias = graph.constant(bias_index[0]) if bias_index else None
        if (
            bias is None
            or bias.quantization is None
            or image.quantization is None
            or weight.quantization is None
        ):
            continue
        if not _is_product(bias.quantization, image.quantization, weight.quantization):
            message = "The bias is not scaled by input scale x weight scale."
            yield Finding("error", "bias_scale", label(operator), message)


def _is_product(bias: Quantization, image: Quantization, weight: Quantization) -> bool:
    if bias.scales.size != weight.scales.size or image.scales.size != 1:
        return False
    with np.errstate(invalid="ignore"):  # infinite scales are reported by `_ranges`
        product = image.scales.astype(np.float64) * weight.scales
        return bool(np.all(np.abs(bias.scales - product) <= _BIAS_TOLERANCE * np.abs(product)))


def _ranges(graph: Graph) -> Iterator[Finding]:
    """Reports tensors whose scale is missing, 0, negative or not finite."""
    seen: set[int] = set()
    for operator in graph.operators:
        for tensor in _tensors(graph, (*operator.inputs, *operator.outputs)):
            if tensor.index in seen:
                continue
            seen.add(tensor.index)
            problem = _range_problem(tensor)
            if problem:
                yield Finding(
                    "error",
                    "degenerate_range",
                    label(operator),
                    f"Tensor '{tensor.name}' {problem}.",
                )


def _range_problem(tensor: Tensor) -> str:
    if tensor.quantization is None:
        return "is int8 without a scale" if tensor.dtype == "int8" else ""
    scales, zeros = tensor.quantization.scales, tensor.quantization.zero_points
    if not np.all(np.isfinite(scales) & (scales > 0)):
        return "has a scale that is 0, negative or not finite"
    if tensor.dtype in INTEGER_IMAGES:
        limits = np.iinfo(tensor.dtype)
        if zeros.min() < limits.min or zeros.max() > limits.max:
            return f"has a zero point outside {tensor.dtype}"
    return ""
