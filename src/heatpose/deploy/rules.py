"""Checks a TFLite against a target's rules: unsupported, CPU and decomposed operators, limits.

To add a rule: write `_name(graph, target) -> Iterator[Finding]` and list it in `check_target`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from heatpose.deploy.targets import Rules, Target
from heatpose.tflite.graph import ABSENT, Graph, Operator, tensor_bytes, weights, weights_bytes
from heatpose.tflite.lint import Finding, label

KIB = 1024
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def check_target(graph: Graph, target: Target) -> list[Finding]:
    """Findings for a target, those on the whole file first; rules are named `target_...`.

    Severity "error": does not compile or does not fit; "warning": slower or less accurate than
    possible; "info": no action needed.
    """
    rules = (_granularity, _ports, _budget, _shapes, _operators, _hybrid, _kernels)
    return [finding for rule in rules for finding in rule(graph, target)]


def _granularity(graph: Graph, target: Target) -> Iterator[Finding]:
    scales = [
        weight.quantization.scales.size
        for _, weight in weights(graph)
        if weight.quantization is not None
    ]
    if target.artefact != "float32" and not scales:
        processor = target.npu is None and target.tool is None
        message = (
            f"The weights are float, which {target.board} computes slower than int8"
            if processor
            else f"The weights are float; {target.name} needs int8"
        )
        remedy = f"deploy the {target.artefact} file that `heatpose export` writes"
        yield Finding(
            "warning" if processor else "error",
            "target_granularity",
            None,
            f"{message}: {remedy}.",
        )
        return
    found = "int8_pc" if max(scales, default=0) > 1 else "int8_pt"
    if scales and target.artefact != found and target.rules.other_granularity:
        yield Finding(
            "warning",
            "target_granularity",
            None,
            f"The weights are quantised as {found}: {target.rules.other_granularity}.",
        )


def _ports(graph: Graph, target: Target) -> Iterator[Finding]:
    """Types and alignment of inputs and outputs."""
    for tensor in (graph.tensors[i] for i in graph.inputs):
        if tensor.dtype != target.input_dtype:
            text = (
                f"Input '{tensor.name}' is {tensor.dtype}; {target.name} expects"
                f" {target.input_dtype} camera bytes."
            )
            yield Finding("warning", "target_input_dtype", None, text)
        size, step = tensor_bytes(tensor), target.rules.input_alignment
        if size % step:
            yield Finding(
                "info",
                "target_alignment",
                None,
                f"Input '{tensor.name}' has {size} bytes, which is not a multiple of {step}: its"
                " buffer is padded.",
            )
    for tensor in (graph.tensors[i] for i in graph.outputs):
        if (
            tensor.dtype == "float32"
            and target.rules.float_output
            and target.output_dtype in (None, "float32")
        ):
            yield Finding(
                "info",
                "target_float_output",
                None,
                f"Output '{tensor.name}' is float32: it {target.rules.float_output}.",
            )


def _budget(graph: Graph, target: Target) -> Iterator[Finding]:
    """Lower bounds of RAM and flash against the budget; `heatpose estimate` gives estimates."""
    largest = max((tensor_bytes(t) for t in graph.tensors if t.data is None), default=0) / KIB
    if target.budget.ram_kib is not None and largest > target.budget.ram_kib:
        text = (
            f"The largest activation is {largest:.0f} KiB, more than the"
            f" {target.budget.ram_kib:.0f} KiB of RAM."
        )
        yield Finding("error", "target_ram", None, text)
    flash = weights_bytes(graph) / KIB
    if target.budget.flash_kib is not None and flash > target.budget.flash_kib:
        yield Finding(
            "error",
            "target_flash",
            None,
            f"The weights are {flash:.0f} KiB, more than the {target.budget.flash_kib:.0f} KiB of"
            " flash.",
        )


def _shapes(graph: Graph, target: Target) -> Iterator[Finding]:
    """Dynamic shapes, batches, ranks and lengths."""
    rules = target.rules
    for tensor in graph.tensors:
        if any(side < 0 for side in tensor.shape):
            yield Finding(
                "error",
                "target_dynamic_shape",
                None,
                f"Tensor '{tensor.name}' has the dynamic shape {list(tensor.shape)}; export with a"
                " fixed one.",
            )
        if rules.max_rank is not None and len(tensor.shape) > rules.max_rank:
            yield Finding(
                "error",
                "target_rank",
                None,
                f"Tensor '{tensor.name}' has {len(tensor.shape)} dimensions; at most"
                f" {rules.max_rank} are supported.",
            )
        if rules.max_dimension is not None and max(tensor.shape, default=0) > rules.max_dimension:
            yield Finding(
                "error",
                "target_dimension",
                None,
                f"Tensor '{tensor.name}' has a side of {max(tensor.shape)};"
                f" {rules.max_dimension} is the limit.",
            )
    for tensor in (graph.tensors[i] for i in graph.inputs):
        if tensor.shape[:1] not in ((), (1,)):
            yield Finding(
                "error",
                "target_batch",
                None,
                f"Input '{tensor.name}' has a batch of {tensor.shape[0]}; export with a batch"
                " of 1.",
            )


def _operators(graph: Graph, target: Target) -> Iterator[Finding]:
    """Operators that do not compile, run on the CPU, or run at an unknown place."""
    for operator in graph.operators:
        if operator.name == "DEQUANTIZE" and graph.constant(operator.inputs[0]) is not None:
            continue  # float16 weights, converted on loading
        if (
            operator.name == "DEQUANTIZE"
            and target.output_dtype in ("int8", "uint8")
            and set(operator.outputs) <= set(graph.outputs)
        ):
            continue  # --output-data-type removes it
        elements = math.prod(graph.tensors[operator.outputs[0]].shape) if operator.outputs else 0
        if operator.name in target.rules.unsupported:
            yield Finding(
                "error",
                "target_unsupported_operator",
                label(operator),
                f"{operator.name}: {target.rules.unsupported[operator.name]}.",
            )
        elif operator.name in target.rules.software:
            text = (
                f"{operator.name}: {target.rules.software[operator.name]} ({elements:,} elements)."
            )
            yield Finding("warning", "target_software_operator", label(operator), text)
        elif operator.name in target.rules.unconfirmed:
            text = (
                f"{operator.name}:"
                f" {target.rules.unconfirmed[operator.name]} ({elements:,} elements)."
            )
            yield Finding("warning", "target_unconfirmed_operator", label(operator), text)


def _hybrid(graph: Graph, target: Target) -> Iterator[Finding]:
    """Integer weights with float activations, which the NPUs do not support."""
    for operator, weight in weights(graph):
        float_output = graph.tensors[operator.outputs[0]].dtype.startswith("float")
        if target.artefact != "float32" and weight.dtype == "int8" and float_output:
            text = (
                "int8 weights with float activations (dynamic-range quantisation): it runs on the"
                " processor; quantise with calibration images."
            )
            yield Finding("error", "target_hybrid_operator", label(operator), text)


def _kernels(graph: Graph, target: Target) -> Iterator[Finding]:
    for operator in graph.operators:
        if operator.name in _CONVOLUTIONS and operator.inputs[1] != ABSENT:
            yield from _kernel(graph, operator, target.rules)
        if operator.name in _POOLS and target.rules.pool_side is not None:
            window, side = operator.options.get("filter", (1, 1)), target.rules.pool_side
            if max(window) > side:
                text = (
                    f"A window of {window[0]}x{window[1]} is decomposed or runs on the processor;"
                    f" up to {side}x{side} is not."
                )
                yield Finding("info", "target_pool_window", label(operator), text)


def _kernel(graph: Graph, operator: Operator, rules: Rules) -> Iterator[Finding]:
    shape = graph.tensors[operator.inputs[1]].shape
    if len(shape) != 4:
        return
    high, wide = shape[1], shape[2]
    strided = max(operator.options.get("stride", (1, 1))) > 1
    widest = rules.kernel_width_strided if strided else rules.kernel_width
    if (rules.kernel_height is not None and high > rules.kernel_height) or (
        widest is not None and wide > widest
    ):
        text = (
            f"A kernel of {high}x{wide} is decomposed into several passes; up to"
            f" {rules.kernel_height}x{widest} is not."
        )
        yield Finding("info", "target_kernel_size", label(operator), text)
