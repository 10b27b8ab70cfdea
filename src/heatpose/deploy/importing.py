"""Takes in results that were made elsewhere.

On another machine, on a board, or by ST's Developer Cloud.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.deploy.build import product_of
from heatpose.deploy.c_info import facts_of
from heatpose.deploy.diagnosis import Diagnosis, diagnose
from heatpose.deploy.facts import Facts, ReportError, merged
from heatpose.deploy.folder import LOG, RESULT, DeploymentPackage, keep_products
from heatpose.deploy.outcome import Outcome, budget_excess, collect
from heatpose.errors import HeatposeError, first_line
from heatpose.utils.process import Ended

MOST_FILES, MOST_BYTES = 2000, 2 * 1024**3
"""Of a folder or archive; more is no build of one network."""
_SKIPPED = ("st_ai_ws", "stm32ai_ws")


def import_results(package: DeploymentPackage, source: Path) -> Outcome:
    """Reads a tool's output folder, or the archive of one, into a deployment package.

    Products, log and `result.json`.

    Args:
        package: The folder of the bundle that they belong to.
        source: The folder, or a .zip of it.

    Raises:
        HeatposeError: It does not exist, holds neither reports nor products, or they are of another
            model.
    """
    with tempfile.TemporaryDirectory(prefix="heatpose_") as temporary:
        folder = opened(source, Path(temporary))
        files = [path for path in sorted(folder.rglob("*")) if _is_result(path, folder)]
        if len(files) > MOST_FILES or sum(path.stat().st_size for path in files) > MOST_BYTES:
            raise HeatposeError(
                f"'{source}' is too large for the output of one build; give the folder that the"
                " tool wrote (st_ai_output)."
            )
        outcome = _outcome(package, source, files)
        _keep(package, folder, files)
    outcome.write(package.folder / RESULT)
    return outcome


def opened(source: Path, temporary: Path) -> Path:
    """The folder itself, or `temporary` with what a zip holds.

    Raises:
        HeatposeError: Neither, or the zip is damaged, locked, too large or has entries that lead
            out of it.
    """
    if source.is_dir():
        return source
    if not source.is_file() or not zipfile.is_zipfile(source):
        raise HeatposeError(
            f"'{source}' is no folder and no zip archive; give the folder that the tool wrote"
            " (st_ai_output) or the cloud's download."
        )
    try:
        with zipfile.ZipFile(source) as archive:
            _check_entries(source, [entry for entry in archive.infolist() if not entry.is_dir()])
            archive.extractall(temporary)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        RuntimeError,
        ValueError,
        IndexError,
        OSError,
    ) as error:
        raise HeatposeError(
            f"'{source}' cannot be unpacked ({first_line(error)}); give the folder that the tool"
            " wrote (st_ai_output)."
        ) from error
    return temporary


def _check_entries(source: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses what is no build of one network, or would land elsewhere."""
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise HeatposeError(f"'{source}' is too large for the output of one build.")
    if odd := [
        entry.filename
        for entry in entries
        if ".." in PurePosixPath(entry.filename).parts
        or PurePosixPath(entry.filename).is_absolute()
    ]:
        raise HeatposeError(
            f"'{source}' has an entry that leads out of the archive ('{odd[0]}'); it is not read."
        )


def _is_result(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder).parts
    return path.is_file() and not path.is_symlink() and not any(part in _SKIPPED for part in inside)


def _outcome(package: DeploymentPackage, source: Path, files: Sequence[Path]) -> Outcome:
    target = package.target
    facts, warnings = collect(files)
    facts = merged([facts, *_cloud(files)])
    product, found = (
        (None, None) if target.tool is None else product_of(target.tool, package.stem, files)
    )
    if not facts.has_signal() and found is None:
        wanted = "a c_info json, a report" + ("" if product is None else f" or {product}")
        if (failure := _failure(files, wanted)) is not None:
            raise HeatposeError(f"'{source}' is left of a run that failed: {failure.sentence}")
        raise HeatposeError(
            f"'{source}' holds no result of ST Edge AI Core: {wanted} is what is looked for."
        )
    if facts.model is not None and _plain(facts.model) != _plain(package.stem):
        raise HeatposeError(
            f"'{source}' is the result of '{facts.model}', but the bundle's model for"
            f" {target.name} is '{package.stem}'; import it into the bundle that it was built from."
        )
    if facts.model is None:
        warnings.append(
            "The results do not say which model they are of; they are taken for this bundle's."
        )
    names = tuple(path.name for path in files)
    return Outcome(
        target.name,
        "imported",
        facts,
        {},
        None,
        None,
        None,
        names,
        tuple(warnings),
        budget_excess(facts, target),
        None,
        package.model.sha256,
    )


def _failure(files: Sequence[Path], wanted: str) -> Diagnosis | None:
    """What a log says that went wrong; None where none has an error of the tool."""
    for path in files:
        if path.suffix in (".log", ".txt"):
            failure = diagnose(
                Ended(1, 0.0, path.read_text(encoding="utf-8", errors="replace")), wanted
            )
            if failure.line:
                return failure
    return None


def _plain(name: str) -> str:
    """The tool turns what is no letter or digit of a name into an underscore."""
    return re.sub(r"\W", "_", name).lower()


def _cloud(files: Sequence[Path]) -> list[Facts]:
    """Answers of the Developer Cloud's benchmark.

    For microcontrollers a c_info under `info`, for Linux boards a time.
    """
    found = []
    for path in files:
        if path.suffix != ".json" or "c_info" in path.name:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError, RecursionError):
            continue
        benchmark = content.get("benchmark") if isinstance(content, dict) else None
        if isinstance(benchmark, dict):
            found += _benchmark(benchmark, path)
    return found


def _benchmark(benchmark: dict[str, Any], path: Path) -> list[Facts]:
    found = []
    if isinstance(benchmark.get("info"), dict):
        try:
            found.append(facts_of(benchmark["info"], path))
        except ReportError:
            return []
    time = benchmark.get("exec_time")
    if isinstance(time, dict) and isinstance(time.get("duration_ms"), int | float):
        board, version = benchmark.get("board"), benchmark.get("tool_version")
        texts = {
            "device": str(board) if board else None,
            "tool_version": str(version) if version else None,
        }
        found.append(
            Facts(
                ms=float(time["duration_ms"]),
                device=texts["device"],
                tool_version=texts["tool_version"],
            )
        )
    return found


def _keep(package: DeploymentPackage, folder: Path, files: Sequence[Path]) -> None:
    """Copies what was made, in place of an earlier run's; a log beside it becomes the log."""
    logs = [path.read_bytes() for path in files if path.suffix == ".log"]
    keep_products(package.folder, {path.relative_to(folder).as_posix(): path for path in files})
    (package.folder / LOG).write_bytes(logs[0] if logs else b"")
