"""Runs ST Edge AI Core on a deployment package, and takes its results in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heatpose.deploy.command import OUTPUT, generate_arguments, shell_line, validate_arguments
from heatpose.deploy.diagnosis import Diagnosis, diagnose, warnings_in
from heatpose.deploy.facts import merged
from heatpose.deploy.folder import LOG, RESULT, DeploymentPackage, keep_products
from heatpose.deploy.npu_profile import PROFILE, pool_file_name
from heatpose.deploy.outcome import Outcome, budget_excess, collect
from heatpose.deploy.stedgeai import Installation, find_installation, missing_compiler
from heatpose.deploy.targets import Target, Tool
from heatpose.errors import HeatposeError
from heatpose.utils.process import Ended, Progress, run_process


def build(
    package: DeploymentPackage,
    *,
    explicit: Path | None = None,
    board: str | None = None,
    time_limit_s: float | None = None,
    progress: Progress | None = None,
    release: str | None = None,
) -> Outcome:
    """Builds a deployment package, and runs it on a board where one is given.

    Writes `result.json`, the raw log and the products into its folder.

    The tool runs in a temporary folder with a plain name, for its compiler crashes on others.

    Args:
        package: The folder.
        explicit: The tool; else it is looked for.
        board: How the board is connected, `serial:921600`.
        time_limit_s: For each of the two; the target's where None.
        progress: Called with the last line of output and a percentage.
        release: Of ST's application, which builds with one version of the tool only.

    Returns:
        The outcome; a failed build is one, too.

    Raises:
        HeatposeError: No fitting tool, or there is no plain temporary folder.
    """
    target, tool = package.target, package.target.tool
    if tool is None:
        raise HeatposeError(
            f"Target '{target.name}' needs no ST Edge AI Core: its TFLite runs as it is; leave out"
            " --run."
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
        outcome = run.generate()
        if board is not None and outcome.failure is None:
            outcome = run.validate(outcome, board)
        run.keep()
    outcome.write(package.folder / RESULT)
    return outcome


class _Run:
    """One run in its temporary folder."""

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
        """Runs the tool; its raw output is appended to the log."""
        with self.log.open("ab") as file:
            file.write(f"$ {shell_line(arguments)}\n".encode())
        command = [str(self.installation.path), *arguments]
        return run_process(
            command, self.folder, time_limit_s=self.limit, log=self.log, progress=self.progress
        )

    def made(self) -> list[Path]:
        """Every file that the tool has made, its workspace left out."""
        found = (
            path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()
        )
        relative = ((path, path.relative_to(self.folder)) for path in found)
        return sorted(
            path
            for path, name in relative
            if name.as_posix() not in self.given and name.parts[0] not in ("st_ai_ws", "stm32ai_ws")
        )

    def generate(self) -> Outcome:
        """Builds, and judges by what is there afterwards."""
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
            # a build without its c_info, told by the text report
            found = self.folder / OUTPUT / "network.c"
            warnings.append(f"There is no {product}; the sizes are the text report's.")
        failure = scorer(target, ended, product, found, declares_sizes=facts.declares_sizes())
        if failure is None and ended.status != 0:
            ending = (
                "was stopped at its time limit"
                if ended.status is None
                else f"ended with status {ended.status}"
            )
            warnings.append(
                f"ST Edge AI Core {ending}, but made what it should; the log has its words."
            )
        described: dict[str, Any] = {
            "path": str(self.installation.path),
            "version": version,
            "components": dict(self.installation.components),
        }
        return Outcome(
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

    def validate(self, built: Outcome, board: str) -> Outcome:
        """Runs the built model on a board.

        A validation replaces the build's c_info, so that one is put aside first.
        """
        for path in self.made():
            if path.name.endswith("_c_info.json"):
                path.rename(path.with_name(path.name.replace("_c_info.json", "_build_c_info.json")))
        ended = self.call(validate_arguments(self.package.target, self.package.model_name, board))
        facts, warnings = collect(self.made())
        if facts.ms is None:
            failure = diagnose(ended, "measurement")
            message = f"The build is good, but the board was not measured: {failure.sentence}"
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
    """What makes a run a success, as a pattern, and the file that fits it.

    The one of that name, else any of its kind; never an empty one.
    """
    pattern = tool.product.format(model=stem)
    filled = [path for path in files if path.stat().st_size > 0]
    exact = [path for path in filled if path.match(pattern)]
    kind = [path for path in filled if path.suffix == Path(pattern).suffix and "*" not in pattern]
    return pattern, next(iter(exact or kind), None)


def scorer(
    target: Target, ended: Ended, product: str, found: Path | None, *, declares_sizes: bool
) -> Diagnosis | None:
    """None for a success: the product is there and.

    For an NPU build, some report says what it takes.
    """
    if found is None:
        return diagnose(ended, f"{product} in {OUTPUT}")
    if target.npu is not None and not declares_sizes:
        if ended.status == 0:
            message = (
                f"ST Edge AI Core made {found.name}, but neither it nor the text report can be"
                " understood; the tool may be newer than this version knows."
            )
            return Diagnosis("unreadable report", "", message)
        return diagnose(ended, "report that can be understood")
    return None
