"""Results for a deployment package: runs ST Edge AI Core, or imports the output of another run."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.deploy.package import LOG, RESULT, DeploymentPackage, keep_products
from heatpose.deploy.reports import Facts, ReportError, facts_of, merged
from heatpose.deploy.stedgeai import (
    OUTPUT,
    PROFILE,
    Installation,
    find_installation,
    generate_arguments,
    missing_compiler,
    pool_file_name,
    shell_line,
    validate_arguments,
)
from heatpose.deploy.targets import Target, Tool
from heatpose.deploy.tool_result import (
    Diagnosis,
    ToolResult,
    budget_excess,
    collect,
    diagnose,
    warnings_in,
)
from heatpose.errors import HeatposeError, first_line
from heatpose.utils.files import read_json_object
from heatpose.utils.process import Ended, Progress, run_process


def build(
    package: DeploymentPackage,
    *,
    explicit: Path | None = None,
    board: str | None = None,
    time_limit_s: float | None = None,
    progress: Progress | None = None,
    release: str | None = None,
) -> ToolResult:
    """Builds a deployment package and, if a board is given, measures it there.

    Writes `result.json`, the raw log and the products into the package's folder. The tool runs in
    a temporary folder with an ASCII name, because its compiler crashes on others.

    Args:
        package: Deployment package.
        explicit: Path of the tool; None searches for it.
        board: Connection of the board, for instance `serial:921600`.
        time_limit_s: Limit of the build and of the measurement, each; None for the target's.
        progress: Called with the last line of output and a percentage.
        release: Release of ST's application, which requires a version of the tool.

    Returns:
        Result, of a failed build as well.

    Raises:
        HeatposeError: No suitable tool, or the temporary folder's name is not ASCII.
    """
    target, tool = package.target, package.target.tool
    if tool is None:
        raise HeatposeError(
            f"Target '{target.name}' runs the TFLite without ST Edge AI Core; leave out --run."
        )
    installation = find_installation(target, explicit, release=release)
    with tempfile.TemporaryDirectory(prefix="heatpose_") as temporary:
        if not temporary.isascii():
            raise HeatposeError(
                f"'{temporary}' is not plain ASCII, which ST's compiler needs; set TMPDIR (TEMP on"
                " Windows) to a folder with a plain name."
            )
        run = _Run(
            package,
            tool,
            installation,
            Path(temporary),
            time_limit_s or tool.time_limit_s,
            progress,
        )
        result = run.generate()
        if board is not None and result.failure is None:
            result = run.validate(result, board)
        run.keep()
    result.write(package.folder / RESULT)
    return result


class _Run:
    """One run of the tool in its temporary folder."""

    def __init__(
        self,
        package: DeploymentPackage,
        tool: Tool,
        installation: Installation,
        folder: Path,
        limit: float,
        progress: Progress | None,
    ) -> None:
        self.package, self.tool, self.installation, self.folder = (
            package,
            tool,
            installation,
            folder,
        )
        self.limit, self.progress, self.log = limit, progress, package.folder / LOG
        names = [package.model_name]
        if package.target.npu is not None:
            names += [PROFILE, pool_file_name(package.target.name)]
        for name in names:
            shutil.copyfile(package.folder / name, folder / name)
        self.given = frozenset(names)
        self.log.write_bytes(b"")

    def call(self, arguments: Sequence[str]) -> Ended:
        """Runs the tool and appends its raw output to the log."""
        with self.log.open("ab") as file:
            file.write(f"$ {shell_line(arguments)}\n".encode())
        command = [str(self.installation.path), *arguments]
        return run_process(
            command, self.folder, time_limit_s=self.limit, log=self.log, progress=self.progress
        )

    def made(self) -> list[Path]:
        """Files that the tool has written, without its workspace."""
        found = (
            path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()
        )
        relative = ((path, path.relative_to(self.folder)) for path in found)
        return sorted(
            path
            for path, name in relative
            if name.as_posix() not in self.given and name.parts[0] not in ("st_ai_ws", "stm32ai_ws")
        )

    def generate(self) -> ToolResult:
        """Builds; success is determined from the files, because exit statuses are unreliable."""
        target = self.package.target
        major = self.installation.version[0]
        arguments = generate_arguments(target, self.package.model_name, major)
        ended = self.call(arguments)
        files = self.made()
        product, found = product_of(self.tool, self.package.stem, files)
        facts, warnings = collect(files)
        version = self.installation.version_text
        facts = merged([facts, replace(facts, tool_version=version)])
        pair = None if target.application is None else target.application.mismatch(version)
        message = (missing_compiler(self.installation, self.tool), pair)
        warnings += [text for text in message if text]
        warnings += warnings_in(ended.text)
        if (
            found is None
            and facts.declares_sizes()
            and any(path.name == "network.c" for path in files)
        ):
            # a build without c_info whose sizes are in the text report
            found = self.folder / OUTPUT / "network.c"
            warnings.append(f"There is no {product}; the sizes are those of the text report.")
        failure = failure_of(target, ended, product, found, declares_sizes=facts.declares_sizes())
        if failure is None and ended.status != 0:
            ending = (
                "was stopped at its time limit"
                if ended.status is None
                else f"ended with status {ended.status}"
            )
            warnings.append(f"ST Edge AI Core {ending}, but wrote its products; see the log.")
        described: dict[str, Any] = {
            "path": str(self.installation.path),
            "version": version,
            "components": dict(self.installation.components),
        }
        return ToolResult(
            target.name,
            "built" if failure is None else "failed",
            facts,
            described,
            shell_line(arguments),
            ended.status,
            ended.seconds,
            tuple(path.name for path in files),
            tuple(warnings),
            budget_excess(facts, target),
            failure,
            self.package.model.sha256,
        )

    def validate(self, built: ToolResult, board: str) -> ToolResult:
        """Runs the built model on a board.

        A validation overwrites the build's c_info, so that file is renamed first.
        """
        for path in self.made():
            if path.name.endswith("_c_info.json"):
                path.rename(path.with_name(path.name.replace("_c_info.json", "_build_c_info.json")))
        ended = self.call(validate_arguments(self.package.target, self.package.model_name, board))
        facts, warnings = collect(self.made())
        if facts.ms is None:
            failure = diagnose(ended, "measurement")
            message = f"The build succeeded, but the measurement failed: {failure.sentence}"
            return replace(
                built,
                warnings=(*built.warnings, message),
                failure=failure,
                status="built",
                products=tuple(p.name for p in self.made()),
            )
        return replace(
            built,
            status="validated",
            facts=merged([built.facts, facts]),
            warnings=(*built.warnings, *warnings, *warnings_in(ended.text)),
            over_budget=budget_excess(merged([built.facts, facts]), self.package.target),
            products=tuple(path.name for path in self.made()),
        )

    def keep(self) -> None:
        """Copies the tool's products into the deployment package, without the tool's folders."""
        files = ((path, path.relative_to(self.folder)) for path in self.made())
        keep_products(
            self.package.folder,
            {
                str(Path(*name.parts[1:]) if len(name.parts) > 1 else name): path
                for path, name in files
            },
        )


def product_of(tool: Tool, stem: str, files: Sequence[Path]) -> tuple[str, Path | None]:
    """Pattern of the product that a successful run writes, and the matching non-empty file.

    Without an exact match, any file with the same suffix is returned.
    """
    pattern = tool.product.format(model=stem)
    filled = [path for path in files if path.stat().st_size > 0]
    exact = [path for path in filled if path.match(pattern)]
    kind = [path for path in filled if path.suffix == Path(pattern).suffix and "*" not in pattern]
    return pattern, next(iter(exact or kind), None)


def failure_of(
    target: Target, ended: Ended, product: str, found: Path | None, *, declares_sizes: bool
) -> Diagnosis | None:
    """Cause of a failed build; None if the product exists and, for an NPU build, its sizes do."""
    if found is None:
        return diagnose(ended, f"{product} in {OUTPUT}")
    if target.npu is not None and not declares_sizes:
        if ended.status == 0:
            message = (
                f"ST Edge AI Core wrote {found.name}, but neither it nor the text report can be"
                " parsed; the tool may be newer than this version of heatpose."
            )
            return Diagnosis("unreadable report", "", message)
        return diagnose(ended, "readable report")
    return None


MOST_FILES, MOST_BYTES = 2000, 2 * 1024**3
"""Limits of a folder or archive; larger ones are not the build of one network."""
_SKIPPED = ("st_ai_ws", "stm32ai_ws")


def import_results(package: DeploymentPackage, source: Path) -> ToolResult:
    """Imports the tool's output from another machine, a board or ST's Developer Cloud.

    Writes products, log and `result.json` into the package's folder.

    Args:
        package: Deployment package of the same model.
        source: The tool's output folder, or a .zip of it.

    Raises:
        HeatposeError: `source` does not exist, holds neither reports nor products, or those of
            another model.
    """
    with tempfile.TemporaryDirectory(prefix="heatpose_") as temporary:
        folder = opened(source, Path(temporary))
        files = [path for path in sorted(folder.rglob("*")) if _is_result(path, folder)]
        if len(files) > MOST_FILES or sum(path.stat().st_size for path in files) > MOST_BYTES:
            raise HeatposeError(
                f"'{source}' is too large for the output of one build; give the folder that the"
                " tool wrote (st_ai_output)."
            )
        result = _imported(package, source, files)
        _keep_imported(package, folder, files)
    result.write(package.folder / RESULT)
    return result


def opened(source: Path, temporary: Path) -> Path:
    """Returns a folder unchanged; extracts a zip into `temporary` and returns that.

    Raises:
        HeatposeError: `source` is neither, or the zip is damaged, encrypted, too large or has
            entries outside its folder.
    """
    if source.is_dir():
        return source
    if not source.is_file() or not zipfile.is_zipfile(source):
        raise HeatposeError(
            f"'{source}' is neither a folder nor a zip archive; give the folder that the tool wrote"
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
    """Rejects archives that are too large or have entries outside their folder."""
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise HeatposeError(f"'{source}' is too large for the output of one build.")
    if odd := [
        entry.filename
        for entry in entries
        if ".." in PurePosixPath(entry.filename).parts
        or PurePosixPath(entry.filename).is_absolute()
    ]:
        raise HeatposeError(
            f"'{source}' has an entry outside the archive ('{odd[0]}'); pack it again."
        )


def _is_result(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder).parts
    return path.is_file() and not path.is_symlink() and not any(part in _SKIPPED for part in inside)


def _imported(package: DeploymentPackage, source: Path, files: Sequence[Path]) -> ToolResult:
    target = package.target
    facts, warnings = collect(files)
    facts = merged([facts, *_cloud(files)])
    product, found = (
        (None, None) if target.tool is None else product_of(target.tool, package.stem, files)
    )
    if not facts.has_signal() and found is None:
        wanted = "a c_info json, a report" + ("" if product is None else f" or {product}")
        if (failure := _failure(files, wanted)) is not None:
            raise HeatposeError(f"'{source}' is of a run that failed: {failure.sentence}")
        raise HeatposeError(
            f"'{source}' holds no result of ST Edge AI Core; give a folder with {wanted}."
        )
    if facts.model is not None and _plain_name(facts.model) != _plain_name(package.stem):
        raise HeatposeError(
            f"'{source}' is the result of '{facts.model}', but the bundle's model for"
            f" {target.name} is '{package.stem}'; import it into the bundle that it was built from."
        )
    if facts.model is None:
        warnings.append("The results do not name their model; they are attributed to this bundle.")
    names = tuple(path.name for path in files)
    return ToolResult(
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
    """Cause of failure from the log files; None if they contain no error."""
    for path in files:
        if path.suffix in (".log", ".txt"):
            failure = diagnose(
                Ended(1, 0.0, path.read_text(encoding="utf-8", errors="replace")), wanted
            )
            if failure.line:
                return failure
    return None


def _plain_name(name: str) -> str:
    """A name as the tool writes it: lower case, other characters replaced by underscores."""
    return re.sub(r"\W", "_", name).lower()


def _cloud(files: Sequence[Path]) -> list[Facts]:
    """Results of the Developer Cloud's benchmark.

    For microcontrollers a c_info under `info`, for Linux boards a time.
    """
    found = []
    for path in files:
        if path.suffix != ".json" or "c_info" in path.name:
            continue
        benchmark = (read_json_object(path) or {}).get("benchmark")
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
        found.append(
            Facts(
                ms=float(time["duration_ms"]),
                device=str(board) if board else None,
                tool_version=str(version) if version else None,
            )
        )
    return found


def _keep_imported(package: DeploymentPackage, folder: Path, files: Sequence[Path]) -> None:
    """Replaces products and log of an earlier run."""
    logs = [path.read_bytes() for path in files if path.suffix == ".log"]
    keep_products(package.folder, {path.relative_to(folder).as_posix(): path for path in files})
    (package.folder / LOG).write_bytes(logs[0] if logs else b"")
