"""What the templates of the README name.

`templates/README.md.j2`, `neural_art.md.j2`, `linux.md.j2`.
"""

from __future__ import annotations

from collections.abc import Sequence

from heatpose.deploy.command import OUTPUT, shell_line, weights_of
from heatpose.deploy.estimate import Estimate
from heatpose.deploy.model import DeployModel
from heatpose.deploy.selftest import STEPS, has_selftest
from heatpose.deploy.targets import Target
from heatpose.deploy.templating import render


def readme_text(
    target: Target,
    model: DeployModel,
    model_name: str,
    command: Sequence[str] | None,
    expected: Estimate | None,
) -> str:
    """The README as Markdown.

    Args:
        target: The board.
        model: What is handed over.
        model_name: Its name in the folder.
        command: Arguments of `stedgeai`; None where there is no tool.
        expected: What the model is expected to take; None where the target has no estimator.
    """
    tool, loader = target.tool, target.flashing.loader
    external = f'"<STM32CubeProgrammer>/bin/ExternalLoader/{loader}"'
    return render(
        "README.md",
        target=target,
        model=model,
        model_name=model_name,
        stem=model_name.removesuffix(".tflite"),
        assumed=model.assumed,
        command=None if command is None else shell_line(command),
        versions="" if tool is None else tool.range_text(),
        component=(
            f" with the {tool.component} component (Linux only)" if tool and tool.component else ""
        ),
        expected=[] if expected is None else _quantities(expected),
        source="" if expected is None else _source(expected),
        output=OUTPUT,
        linux=target.flashing.kind == "linux",
        folder=target.flashing.folder,
        app_config=has_app_config(target, model),
        selftest=has_selftest(model, target),
        selftest_steps=STEPS,
        weights=weights_of(target),
        programmer=f"STM32_Programmer_CLI -c port=SWD mode=HOTPLUG -el {external} -hardRst -w",
        output_dtype=target.output_dtype or model.output.dtype,
        call=_call(model.output.dtype, target.output_dtype),
    )


def has_app_config(target: Target, model: DeployModel) -> bool:
    """Whether ST's application for the board can draw what the model gives: int8 heatmaps."""
    built = target.application is not None and weights_of(target) is not None
    return built and not model.decoded and model.int8_output is not None


def _quantities(expected: Estimate) -> list[tuple[str, str]]:
    """Names and numbers, or why there are none."""
    none = "not estimated" if expected.outside else "not published"
    return [
        (name, f"{interval} {unit}" if interval is not None else none)
        for name, unit, interval in expected.quantities()
    ]


def _source(expected: Estimate) -> str:
    """Where the estimates are from."""
    text = (
        f"Estimates from published rows of {expected.based_on}, not measurements; the brackets are"
    )
    text += " their interval."
    return " ".join([*expected.outside, text, *expected.warnings])


def _call(dtype: str, board_dtype: str | None) -> str:
    """The call that fits what the network gives on the board.

    The file's own type, or the tool's.
    """
    if (board_dtype or dtype) != "int8":
        return "heatpose_decode_float(output, &shape, HEATPOSE_REFINED, pose);"
    named = "HEATPOSE_OUTPUT" if dtype == "int8" else "HEATPOSE_OUTPUT_INT8"
    scale = f"{named}_SCALE, {named}_ZERO_POINT"
    return f"heatpose_decode_int8(output, &shape, {scale}, HEATPOSE_REFINED, pose);"
