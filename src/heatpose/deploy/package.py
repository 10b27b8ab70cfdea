"""Deployment package: a self-contained folder that builds and runs without heatpose."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from heatpose import __file__ as package_file
from heatpose.bundles.bundle import Bundle
from heatpose.deploy.c_sources import (
    SOURCES,
    STEPS,
    app_config_text,
    has_selftest,
    header_text,
    selftest_texts,
)
from heatpose.deploy.estimate import Estimate, estimate
from heatpose.deploy.model import DeployModel, choose_model
from heatpose.deploy.rules import check_target
from heatpose.deploy.stedgeai import (
    OUTPUT,
    PROFILE,
    generate_arguments,
    pool_file_name,
    pool_text,
    profile_text,
    run_ps1,
    run_sh,
    shell_line,
    weights_of,
)
from heatpose.deploy.targets import Target
from heatpose.deploy.templating import render
from heatpose.errors import HeatposeError
from heatpose.runners.outputs import Layout
from heatpose.utils.files import atomic_folder, read_json_object, sha256, write_json

RECORD, ESTIMATE, RESULT, LOG, PRODUCTS = (
    "deploy.json",
    "estimate.json",
    "result.json",
    "stedgeai.log",
    "tool_output",
)
TOOL_FILES = (RESULT, LOG, PRODUCTS)
"""Written by a run of the tool; kept when the same model is packaged again."""
_BOARD_MODULES = (
    "errors.py",
    "utils/__init__.py",
    "utils/image_files.py",
    "pose/__init__.py",
    "pose/codec.py",
    "pose/preprocessing.py",
    "pose/skeleton.py",
    "pose/draw.py",
)
_LAYOUTS = {
    Layout.MAPS_LAST: "maps",
    Layout.MAPS_FIRST: "maps",
    Layout.POSE_XY: "pose_xy",
    Layout.POSE_YX: "pose_yx",
}


@dataclass(frozen=True)
class DeploymentPackage:
    """A deployment package on disk.

    Attributes:
        folder: `<bundle>/<target>`.
        target: Board.
        model: Model file in the bundle.
        command: Arguments of `stedgeai`; None if the target has no tool.
    """

    folder: Path
    target: Target
    model: DeployModel
    command: tuple[str, ...] | None

    @property
    def stem(self) -> str:
        """Stem of the model's file name in the folder: ASCII, without `.rejected`."""
        return plain_stem(self.model)

    @property
    def model_name(self) -> str:
        """File name of the model in the folder."""
        return f"{self.stem}.tflite"


def plain_stem(model: DeployModel) -> str:
    """A model's name with only letters, digits and `_.-`, for ST's compiler."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", model.stem)


def write_package(
    source: Path, target: Target, *, allow_rejected: bool = False, parent: Path | None = None
) -> DeploymentPackage:
    """Writes `<bundle>/<target>` atomically, replacing an older one.

    Results of an earlier run of the tool with the same model are kept.

    Args:
        source: Folder of a bundle, or a TFLite file.
        target: Board.
        allow_rejected: As `choose_model`.
        parent: Folder for the package in place of the bundle's; that of a TFLite file outside a
            bundle is `<file name without .tflite>` beside it.

    Raises:
        HeatposeError: As `choose_model`, or the folder cannot be written.
    """
    model = choose_model(source, target, allow_rejected=allow_rejected)
    target = fitted(target, model)
    name = f"{plain_stem(model)}.tflite"
    command = None if target.tool is None else tuple(generate_arguments(target, name))
    bundle = parent or package_parent(source)
    package = DeploymentPackage(bundle / target.name, target, model, command)
    try:
        bundle.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeatposeError(f"'{bundle}' cannot be created ({error.strerror}).") from error
    try:
        with atomic_folder(package.folder) as new:
            _fill(new, package)
            _keep_results(package.folder, new)
    except OSError as error:
        raise HeatposeError(f"'{package.folder}' cannot be written ({error.strerror}).") from error
    return package


def package_parent(source: Path) -> Path:
    """Parent folder of a source's packages: the bundle, or a folder named after the file."""
    if source.is_dir():
        return source
    inside = Bundle.is_bundle(source.parent)
    return source.parent if inside else source.with_suffix("")


def fitted(target: Target, model: DeployModel) -> Target:
    """The target, without `output_dtype="int8"` for a file of float maps or of decoded poses.

    256 steps are enough for a heatmap, not for coordinates.
    """
    if target.output_dtype == "int8" and (model.decoded or model.int8_output is None):
        return replace(target, output_dtype=None)
    return target


def _fill(folder: Path, package: DeploymentPackage) -> None:
    target, model = package.target, package.model
    shutil.copyfile(model.path, folder / package.model_name)
    if target.npu is not None:
        _write(folder / PROFILE, profile_text(target.npu, target.name))
        _write(folder / pool_file_name(target.name), pool_text(target.npu))
    if target.tool is not None:
        _write(folder / "run.sh", run_sh(target, package.model_name), executable=True)
        _write(folder / "run.ps1", run_ps1(target, package.model_name))
    _write(folder / "heatpose_model.h", header_text(model))
    if not model.decoded:
        for name in SOURCES:
            _write(
                folder / name,
                (resources.files("heatpose.deploy") / "c" / name).read_text(encoding="utf-8"),
            )
    if has_selftest(model, target):
        for name, content in selftest_texts(model).items():
            _write(folder / name, content)
    if has_app_config(target, model):
        _into_application(folder, package)
    if target.flashing.kind == "linux":
        _board_app(folder, model, target)
    # without an estimator there are only the findings of the target's rules
    expected = None if target.estimator is None else estimate(model.graph, target)
    findings = [asdict(finding) for finding in check_target(model.graph, target)]
    _write(
        folder / "README.md",
        readme_text(target, model, package.model_name, package.command, expected),
    )
    write_json(
        folder / ESTIMATE,
        {"estimate": None if expected is None else expected.to_json(), "findings": findings},
    )
    _record(folder, package)


def _write(path: Path, text: str, executable: bool = False) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")  # shells reject carriage returns
    if executable:
        path.chmod(0o755)


def _into_application(folder: Path, package: DeploymentPackage) -> None:
    """Script and data that install the network in ST's application."""
    target, weights = package.target, weights_of(package.target)
    assert target.application is not None and weights is not None
    text = app_config_text(package.model, target, package.model_name)
    _write(folder / "app_config_block.h", text)
    source = resources.files("heatpose.deploy") / "board" / "into_application.py"
    _write(folder / "into_application.py", source.read_text(encoding="utf-8"))
    described = {**asdict(target.application), "weights": weights.raw, "address": weights.address}
    write_json(folder / "application.json", described)


def _board_app(folder: Path, model: DeployModel, target: Target) -> None:
    """Python application for Linux boards, with the modules of heatpose that it imports."""
    package = Path(package_file).parent
    (folder / "heatpose").mkdir()
    _write(folder / "heatpose" / "__init__.py", '"""Modules of heatpose used by pose_app.py."""\n')
    for name in _BOARD_MODULES:
        target_file = folder / "heatpose" / name
        target_file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target_file)
    shutil.copyfile(package / "deploy" / "board" / "pose_app.py", folder / "pose_app.py")
    described = {
        "skeleton": model.skeleton.to_dict(),
        "preprocessing": model.preprocessing.to_dict(),
        "layout": _LAYOUTS[model.layout],
        "probabilities": bool(model.probabilities),
        "threshold": model.threshold.value,
        "npu_tflite": target.tool is not None,
    }
    write_json(folder / "pose_model.json", described)


def _record(folder: Path, package: DeploymentPackage) -> None:
    """Writes `deploy.json`: target, model and SHA-256 of every file."""
    model = package.model
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {
        "target": package.target.name,
        "board": package.target.board,
        "model": package.model_name,
        "model_sha256": model.sha256,
        "rejected": model.rejected,
        "command": None if package.command is None else shell_line(package.command),
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    write_json(folder / RECORD, content)


def keep_products(folder: Path, files: Mapping[str, Path]) -> None:
    """Replaces the tool's products in a deployment package atomically.

    Args:
        folder: Folder of the deployment package.
        files: Name below `tool_output/` -> file, which may be one of the replaced products.
    """
    with atomic_folder(folder / PRODUCTS) as new:
        for name, path in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)


def read_record(folder: Path) -> dict[str, Any]:
    """Content of `deploy.json` of a deployment package."""
    content: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return content


def _keep_results(old: Path, new: Path) -> None:
    """Copies the results of an earlier run of the tool if model and command are the same."""
    before, now = (read_json_object(folder / RECORD) for folder in (old, new))
    if before is None or now is None:
        return
    if any(before.get(key) != now.get(key) for key in ("model_sha256", "command")):
        return
    for name in TOOL_FILES:
        if (old / name).is_dir():
            shutil.copytree(old / name, new / name)
        elif (old / name).is_file():
            shutil.copyfile(old / name, new / name)


def readme_text(
    target: Target,
    model: DeployModel,
    model_name: str,
    command: Sequence[str] | None,
    expected: Estimate | None,
) -> str:
    """README of the package, Markdown (`templates/README.md.j2`).

    Args:
        target: Board.
        model: Model file.
        model_name: Its file name in the folder.
        command: Arguments of `stedgeai`; None if the target has no tool.
        expected: Estimate; None if the target has no estimator.
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
    """Whether ST's application for the board can decode the model's output: int8 heatmaps."""
    built = target.application is not None and weights_of(target) is not None
    return built and not model.decoded and model.int8_output is not None


def _quantities(expected: Estimate) -> list[tuple[str, str]]:
    """Names and estimates, or the reason for a missing one."""
    none = "not estimated" if expected.outside else "not published"
    return [
        (name, f"{interval} {unit}" if interval is not None else none)
        for name, unit, interval in expected.quantities()
    ]


def _source(expected: Estimate) -> str:
    """Source of the estimates."""
    text = (
        f"Estimates from published rows of {expected.based_on}, not measurements; intervals in"
        " brackets."
    )
    return " ".join([*expected.outside, text, *expected.warnings])


def _call(dtype: str, board_dtype: str | None) -> str:
    """C call that decodes the network's output type on the board."""
    if (board_dtype or dtype) != "int8":
        return "heatpose_decode_float(output, &shape, HEATPOSE_REFINED, pose);"
    named = "HEATPOSE_OUTPUT" if dtype == "int8" else "HEATPOSE_OUTPUT_INT8"
    scale = f"{named}_SCALE, {named}_ZERO_POINT"
    return f"heatpose_decode_int8(output, &shape, {scale}, HEATPOSE_REFINED, pose);"
