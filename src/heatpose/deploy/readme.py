"""The README of a hand-off: what lies there, how it is built, how it gets onto the board."""

from __future__ import annotations

from collections.abc import Sequence

from heatpose.deploy.command import OUTPUT, shell_line
from heatpose.deploy.estimate import Estimate
from heatpose.deploy.model import DeployModel
from heatpose.deploy.targets import Target


def readme_text(target: Target, model: DeployModel, model_name: str, command: Sequence[str] | None, expected: Estimate | None) -> str:
    """The README as Markdown.

    Args:
        target: The board.
        model: What is handed over.
        model_name: Its name in the folder.
        command: Arguments of `stedgeai`; None where there is no tool.
        expected: What the model is expected to take; None where the target has no estimator.
    """
    parts = [_head(target, model, model_name), _files(target, model, model_name)]
    if expected is not None:
        parts.append(_expected(expected))
    if command is not None:
        parts.append(_build(target, command))
    parts += [_linux(target, model_name) if target.flashing.kind == "linux" else _neural_art(target), _interface(target, model), _unverified(target)]
    return "\n\n".join(parts) + "\n"


def _head(target: Target, model: DeployModel, model_name: str) -> str:
    text = f"# {model_name} on {target.board}\n\nModel sha256: `{model.sha256}`"
    if model.rejected:
        text += "\n\n**This file failed a gate of its export** (see the README of the bundle) and was handed over on request."
    return text


def _files(target: Target, model: DeployModel, model_name: str) -> str:
    lines = ["## Files", "", f"- `{model_name}`: the network"]
    if target.npu is not None:
        lines.append(f"- `user_neuralart.json`, `{target.name}.mpool`: compiler profile and memory map of the board")
    if target.tool is not None:
        lines.append("- `run.sh`, `run.ps1`: build with ST Edge AI Core, without heatpose")
    lines.append("- `heatpose_model.h`: sizes, quantisation, keypoint names, edges, as C constants")
    if not model.decoded:
        lines.append("- `postprocess.c`, `postprocess.h`: keypoints out of int8 or float heatmaps, C99 without heap")
    if target.flashing.kind == "linux":
        lines.append("- `pose_app.py`, `pose_model.json`, `heatpose/`: Python application for the board, which runs on a PC as well")
    lines.append("- `deploy.json`, `estimate.json`: what this folder was made from, and what it is expected to take on the board")
    if target.tool is not None:
        lines.append("- after a build by heatpose `result.json`, `stedgeai.log` and `tool_output/`")
    return "\n".join(lines)


def _expected(expected: Estimate) -> str:
    """Estimates with their intervals, called so."""
    quantities = (("RAM", "KiB", expected.ram_kib), ("flash for weights", "KiB", expected.flash_kib), ("one inference", "ms", expected.ms))
    told = [f"- {name}: {interval} {unit}" for name, unit, interval in quantities if interval is not None]
    beyond = "An extrapolation: `estimate.json` says why. " if expected.extrapolates else ""
    source = f"{beyond}Estimates from published rows of {expected.based_on}, not measurements; the brackets are their interval."
    return "\n".join(["## Expected", "", *told, "", source])


def _build(target: Target, command: Sequence[str]) -> str:
    tool = target.tool
    assert tool is not None
    versions = f"{tool.oldest} to {tool.newest}" if tool.newest else f"{tool.oldest} or newer"
    needs = f" with the {tool.component} component (Linux only)" if tool.component else ""
    lines = [
        "## Build", "", f"With ST Edge AI Core {versions}{needs}, in this folder:", "", f"    {shell_line(command)}", "",
        "or `./run.sh`, `.\\run.ps1`, or `heatpose deploy BUNDLE --target " + target.name + " --run`. The folder's path must be plain ASCII.",
        "A fresh installation asks about usage statistics first; answer it once in a terminal.",
        f"Heatpose itself leaves in `tool_output/` what is looked for in `{OUTPUT}/` below.",
    ]  # fmt: skip
    if target.flashing.kind == "linux":
        lines += [
            "",
            f"The result is `{OUTPUT}/{_stem(command)}.nb`. Where no such version is at hand: run the same line on the board (X-LINUX-AI has a",
            "`stedgeai` of its own), or upload the TFLite to ST's Edge AI Developer Cloud. What was made elsewhere comes back with",
            f"`heatpose deploy BUNDLE --target {target.name} --import FOLDER`.",
        ]
    return "\n".join(lines)


def _stem(command: Sequence[str]) -> str:
    return command[command.index("--model") + 1].removesuffix(".tflite")


def _neural_art(target: Target) -> str:
    pool = target.npu.weights_pool() if target.npu is not None else None
    weights = target.flashing.weights_address if target.flashing.weights_address is not None else pool.address if pool is not None else 0
    raw = f"network_atonbuf.{pool.file}.raw" if pool is not None else "network_atonbuf.*.raw"
    loader, application = target.flashing.loader, target.flashing.application_address or 0
    programmer = f'STM32_Programmer_CLI -c port=SWD mode=HOTPLUG -el "<STM32CubeProgrammer>/bin/ExternalLoader/{loader}" -hardRst -w'
    return "\n".join([
        "## Into the application and onto the board", "",
        f"1. Copy `{OUTPUT}/network.c`, and with the epoch controller `network_ecblobs.h`, with Core 3.0 and newer also `stai_network.c` and `stai_network.h`,",
        "   and `heatpose_model.h`, `postprocess.c` and `postprocess.h` from here into the application's project",
        "   (ST's STM32N6-GettingStarted-PoseEstimation is one; its `Model/` folder is where the first of them go).",
        f"2. Weights to 0x{weights:08X}: `run.sh` makes `network_data.hex` out of `{OUTPUT}/{raw}`; by hand:", "",
        f"       cp {OUTPUT}/{raw} network_data.bin",
        f"       arm-none-eabi-objcopy -I binary network_data.bin --change-addresses 0x{weights:08X} -O ihex network_data.hex", "",
        "3. Set the board's boot switches to development mode (ST's package shows how), then flash the first-stage boot loader of ST's",
        f"   package, the weights, and the signed application at 0x{application:08X}:", "",
        f"       {programmer} <FSBL>.hex",
        f"       {programmer} network_data.hex",
        "       STM32_SigningTool_CLI -s -bin application.bin -nk -t ssbl -hv 2.3 -o application_signed.bin",
        f"       {programmer} application_signed.bin 0x{application:08X}", "",
        "4. Set the switches to boot from flash and cycle the power.", "",
        "To measure on the board, load ST's validation firmware (`scripts/N6_scripts/n6_loader.py` of ST Edge AI Core, after the build) and run",
        f"`heatpose deploy BUNDLE --target {target.name} --run --board serial:921600`.",
    ])  # fmt: skip


def _linux(target: Target, model_name: str) -> str:
    folder, stem = target.flashing.folder, model_name.removesuffix(".tflite")
    files = f"pose_app.py pose_model.json heatpose {model_name}"
    lines = ["## Onto the board", "", f"    ssh root@<board> mkdir -p {folder}", f"    scp -r {files} root@<board>:{folder}/"]
    run = f"python3 {folder}/pose_app.py {folder}/{model_name} --camera 0"
    if target.tool is not None:
        lines.append(f"    scp {OUTPUT}/{stem}.nb root@<board>:{folder}/")
        run = f"python3 {folder}/pose_app.py {folder}/{stem}.nb --camera 0"
    lines += [
        f"    ssh root@<board> {run}", "",
        "The board needs X-LINUX-AI with Python 3.10 or newer and its package `stai_mpu`, numpy and Pillow, and OpenCV for the camera.",
        "Time and use of the units: `x-linux-ai-benchmark -m <model>` on the board. The same program tries the model on a PC:", "",
        f"    python3 pose_app.py {model_name} photo.jpg --out poses",
    ]  # fmt: skip
    return "\n".join(lines)


def _interface(target: Target, model: DeployModel) -> str:
    how, output = model.preprocessing, model.output
    holds = "the pose: x, y, score per keypoint" if model.decoded else "heatmaps; `postprocess.c` decodes them"
    lines = [
        "## Interface", "",
        f"- Input: {model.input.dtype} {list(model.input.shape)}, RGB, the whole image stretched to {model.size}x{model.size} ({how.sampling} sampling).",
        f"- Output: {output.dtype} {list(output.shape)}, {holds}.",
        f"- Keypoints in order: {', '.join(model.skeleton.keypoints)}.",
    ]  # fmt: skip
    if not model.decoded:
        lines += ["", *_decoding(output.dtype, target.output_dtype)]
    return "\n".join(lines)


def _decoding(dtype: str, board_dtype: str | None) -> list[str]:
    """The call that fits what the network gives on the board: the file's own type, or the one that the target asks the tool for."""
    call = "heatpose_decode_float(output, &shape, HEATPOSE_REFINED, pose);"
    if (board_dtype or dtype) == "int8":
        named = "HEATPOSE_OUTPUT" if dtype == "int8" else "HEATPOSE_OUTPUT_INT8"
        call = f"heatpose_decode_int8(output, &shape, {named}_SCALE, {named}_ZERO_POINT, HEATPOSE_REFINED, pose);"
    return [
        "In C, where `output` is the network's output buffer:", "",
        "    static const heatpose_shape shape = HEATPOSE_SHAPE;",
        "    heatpose_keypoint pose[HEATPOSE_KEYPOINTS];",
        f"    {call}",
        "    /* pose[k].x times the camera image's width, pose[k].y times its height; pose[k].score against HEATPOSE_SCORE_THRESHOLD */",
    ]  # fmt: skip


def _unverified(target: Target) -> str:
    return (
        "## Not verified\n\n"
        f"The files of this folder were checked against ST's documentation and published applications, but not on a board ({target.board}). "
        "The C decoder and the Python application give the same numbers as heatpose on a PC."
    )
