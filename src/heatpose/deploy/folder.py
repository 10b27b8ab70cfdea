"""The deployment package: one self-contained folder, which builds and runs without heatpose."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from heatpose import __file__ as package_file
from heatpose.bundles.bundle import Bundle
from heatpose.deploy.c_header import SOURCES, app_config_text, header_text
from heatpose.deploy.command import (
    generate_arguments,
    run_ps1,
    run_sh,
    shell_line,
    weights_of,
)
from heatpose.deploy.estimate import estimate
from heatpose.deploy.model import DeployModel, choose_model
from heatpose.deploy.npu_profile import PROFILE, pool_file_name, pool_text, profile_text
from heatpose.deploy.readme import has_app_config, readme_text
from heatpose.deploy.rules import check_target
from heatpose.deploy.selftest import has_selftest, selftest_texts
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError
from heatpose.runners.outputs import Layout
from heatpose.utils.files import sha256, write_json

RECORD, ESTIMATE, RESULT, LOG, PRODUCTS = (
    "deploy.json",
    "estimate.json",
    "result.json",
    "stedgeai.log",
    "tool_output",
)
OUTCOME = (RESULT, LOG, PRODUCTS)
"""What a run adds to the folder; kept when the same model is handed over again."""
_BOARD_MODULES = (
    "errors.py",
    "utils/__init__.py",
    "utils/image_files.py",
    "pose/__init__.py",
    "pose/codec.py",
    "pose/preprocessing.py",
    "pose/skeleton.py",
    "pose/draw.py",
    "deploy/__init__.py",
    "deploy/board/__init__.py",
    "deploy/board/images.py",
)
_LAYOUTS = {
    Layout.MAPS_LAST: "maps",
    Layout.MAPS_FIRST: "maps",
    Layout.POSE_XY: "pose_xy",
    Layout.POSE_YX: "pose_yx",
}


@dataclass(frozen=True)
class DeploymentPackage:
    """A folder that was written.

    Attributes:
        folder: `<bundle>/<target>`.
        target: The board.
        model: The file that was taken, as it lies in the bundle.
        command: What the tool is to be called with; None where there is no tool.
    """

    folder: Path
    target: Target
    model: DeployModel
    command: tuple[str, ...] | None

    @property
    def stem(self) -> str:
        """Of the model's file name in the folder.

        Plain ASCII, for ST's compiler, and without the mark of a rejected file.
        """
        return plain_stem(self.model)

    @property
    def model_name(self) -> str:
        """The model's file name in the folder."""
        return f"{self.stem}.tflite"


def plain_stem(model: DeployModel) -> str:
    """A model's name in letters, digits and `_.-`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", model.stem)


def write_package(
    source: Path, target: Target, *, allow_rejected: bool = False, parent: Path | None = None
) -> DeploymentPackage:
    """Writes `<bundle>/<target>`, replacing an older one.

    Results of the same model's earlier run stay.

    A TFLite file of another pipeline gets `<file's name without .tflite>/<target>` beside it;
    `parent` takes the place of either folder.

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
        raise HeatposeError(f"'{bundle}' cannot be made ({error.strerror}).") from error
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=bundle) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            _fill(new, package)
            _keep_outcome(package.folder, new)
            if package.folder.exists():
                os.replace(package.folder, Path(temporary) / "old")
            os.replace(new, package.folder)
    except OSError as error:
        raise HeatposeError(f"'{package.folder}' cannot be written ({error.strerror}).") from error
    return package


def package_parent(source: Path) -> Path:
    """The folder that holds a source's packages: the bundle, or one of the file's own."""
    if source.is_dir():
        return source
    inside = Bundle.is_bundle(source.parent)
    return source.parent if inside else source.with_suffix("")


def fitted(target: Target, model: DeployModel) -> Target:
    """The target, asked for int8 only where the file has an int8 output to give."""
    if target.output_dtype == "int8" and model.int8_output is None:
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
    # a board without one has the rules' findings alone
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
    path.write_text(text, encoding="utf-8", newline="\n")  # a shell takes no carriage returns
    if executable:
        path.chmod(0o755)


def _into_application(folder: Path, package: DeploymentPackage) -> None:
    """What puts the network into ST's application, and what it must know."""
    target, weights = package.target, weights_of(package.target)
    assert target.application is not None and weights is not None
    text = app_config_text(package.model, target, package.model_name)
    _write(folder / "app_config_block.h", text)
    source = resources.files("heatpose.deploy") / "board" / "into_application.py"
    _write(folder / "into_application.py", source.read_text(encoding="utf-8"))
    described = {**asdict(target.application), "weights": weights.raw, "address": weights.address}
    write_json(folder / "application.json", described)


def _board_app(folder: Path, model: DeployModel, target: Target) -> None:
    """The Python application, with the modules of heatpose that it imports."""
    package = Path(package_file).parent
    (folder / "heatpose").mkdir()
    _write(
        folder / "heatpose" / "__init__.py", '"""The parts of heatpose that pose_app.py needs."""\n'
    )
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
    """What was handed over, for whoever finds the folder, and for the results to be told apart."""
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
    """Copies what a tool made into a deployment package, in place of an earlier run's.

    The files may be that earlier run's own.

    Args:
        folder: Of the deployment package.
        files: Name below `tool_output/` -> file.
    """
    with tempfile.TemporaryDirectory(prefix=f".{PRODUCTS}.", dir=folder) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        for name, path in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)
        if (folder / PRODUCTS).exists():
            os.replace(folder / PRODUCTS, Path(temporary) / "old")
        os.replace(new, folder / PRODUCTS)


def read_record(folder: Path) -> dict[str, Any]:
    """`deploy.json` of a deployment package that was just written."""
    content: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return content


def _keep_outcome(old: Path, new: Path) -> None:
    """Copies an earlier run's results, if they are of the same model and command."""
    try:
        before, now = (
            json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in (old, new)
        )
    except (OSError, ValueError):
        return
    if any(before.get(key) != now.get(key) for key in ("model_sha256", "command")):
        return
    for name in OUTCOME:
        if (old / name).is_dir():
            shutil.copytree(old / name, new / name)
        elif (old / name).is_file():
            shutil.copyfile(old / name, new / name)
