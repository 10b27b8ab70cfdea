"""Commands on model files and boards: `heatpose inspect`, `estimate` and `deploy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatpose.cli.options import BOARDS, JsonOut, Model, TargetChoice, target_names
from heatpose.errors import HeatposeError
from heatpose.utils.files import write_json_output

if TYPE_CHECKING:
    from rich.table import Table

    from heatpose.deploy.estimate import Estimate
    from heatpose.deploy.package import DeploymentPackage
    from heatpose.deploy.targets import Target
    from heatpose.deploy.tool_result import ToolResult

Profile = Annotated[
    str | None,
    typer.Option(
        help="Coefficients of the estimate, such as n6_core_2.0; the target's by default."
    ),
]


def inspect(
    model: Model,
    json_out: JsonOut = None,
    target: Annotated[
        str | None,
        typer.Option(
            help=f"Also check the rules of this board: {BOARDS}, or the path of a YAML.",
            autocompletion=target_names,
        ),
    ] = None,
) -> None:
    """Print operators, number formats and sizes of a model file, and its problems on an NPU."""
    from heatpose.bundles.released import resolve_bundle
    from heatpose.utils.progress import show

    model = _file(resolve_bundle(model), target)
    facts = _inspection(model)
    if target is not None:
        facts["findings"] = [*facts["findings"], *_target_findings(model, target)]
    _print_assumed(model)
    for table in _inspection_tables(facts):
        show(table)
    write_json_output(json_out, facts)


def _inspection_tables(facts: Mapping[str, Any]) -> list[Table]:
    """Tables of `heatpose inspect`: the model file, then findings if there are any."""
    from rich.table import Table

    table = Table(title="model file", show_header=False)
    for key in (
        "sha256",
        "bytes",
        "granularity",
        "full_integer",
        "weights_bytes",
        "macs",
        "peak_activation_bytes",
    ):
        value = facts.get(key)
        table.add_row(
            key,
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value),
        )
    for side in ("inputs", "outputs"):
        for port in facts[side]:
            scale = (
                ""
                if port["scale"] is None
                else f", scale {port['scale']:.6g}, zero point {port['zero_point']}"
            )
            table.add_row(side[:-1], f"{port['name']} {port['dtype']} {list(port['shape'])}{scale}")
    for row in _stated(facts):
        table.add_row(*row)
    table.add_row(
        "operators", ", ".join(f"{name} {count}" for name, count in facts["operators"].items())
    )
    return [table, *_findings(facts["findings"])]


def _stated(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metadata of the file or its bundle, and the values that an evaluation would assume."""
    from rich.markup import escape

    rows = [("stated by", str(facts["stated_by"]))] if "stated_by" in facts else []
    if skeleton := facts.get("skeleton"):
        rows.append(("skeleton", f"{skeleton['name']}: {', '.join(skeleton['keypoints'])}"))
    if how := facts.get("preprocessing"):
        values = f"byte / {how['divisor']:g} - {how['shift']:g}"
        rows.append(("input", f"RGB, {values}, {how['sampling']} sampling"))
    for kind in ("assumed", "computed"):
        rows += [(kind, f"{name} {value}") for name, value in facts.get(kind, {}).items()]
    return [(name, escape(value)) for name, value in rows]


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[Table]:
    if not findings:
        return []
    from rich.table import Table

    table = Table(title="findings")
    for heading in ("severity", "rule", "operator", "message"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(
            *(
                str(finding[key] if finding[key] is not None else "")
                for key in ("severity", "rule", "operator", "message")
            )
        )
    return [table]


def estimate(
    model: Model, target: TargetChoice, profile: Profile = None, json_out: JsonOut = None
) -> None:
    """Estimate RAM, flash and time on a board, without ST's tools."""
    from heatpose.bundles.released import resolve_bundle
    from heatpose.deploy.tables import estimate_lines, estimate_table
    from heatpose.deploy.targets import load_target
    from heatpose.utils.progress import show

    board, model = load_target(target), resolve_bundle(model)
    _print_assumed(model)
    expected = _estimate(model, board, profile)
    show(estimate_table(expected, board))
    for line in estimate_lines(expected):
        typer.echo(line)
    write_json_output(json_out, expected.to_json())


def deploy(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle, a TFLite file, or the name of a released network."
        ),
    ],
    target: TargetChoice,
    run: Annotated[
        bool, typer.Option("--run", help="Build with ST Edge AI Core, which must be installed.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            "--import", help="Import the output of a build made elsewhere: a folder or a zip."
        ),
    ] = None,
    tool: Annotated[
        Path | None,
        typer.Option(help="stedgeai, or its installation folder; searched by default."),
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(
            help="Measure on a connected board after the build, for example serial:921600."
        ),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which the tool is stopped.", min=1)
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            help="Release of ST's application, or a checkout of it: requires the matching Core."
        ),
    ] = None,
    allow_rejected: Annotated[
        bool,
        typer.Option("--allow-rejected", help="Accept a file that failed an acceptance check."),
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Write the deployment package for ST's tools, and build it on request."""
    from heatpose.bundles.released import package_folder, resolve_bundle
    from heatpose.deploy.package import write_package
    from heatpose.deploy.targets import load_target

    if run and results is not None:
        raise typer.BadParameter("give --run or --import, not both")
    if not run and (
        board is not None or tool is not None or time_limit is not None or app is not None
    ):
        raise typer.BadParameter("--tool, --board, --app and --time-limit need --run")
    package = write_package(
        resolve_bundle(bundle),
        load_target(target),
        allow_rejected=allow_rejected,
        parent=package_folder(bundle),
    )
    if run:
        _finish(_built(package, tool, board, time_limit, app), package, json_out)
    elif results is not None:
        from heatpose.deploy.build import import_results

        _finish(import_results(package, results), package, json_out)
    else:
        _dry_run(package, json_out)


def _print_assumed(model: Path) -> None:
    """Prints values stated neither by a TFLite file nor by a manifest beside it."""
    from heatpose.deploy.model import read_model

    if model.suffix.lower() == ".tflite" and model.is_file():
        try:
            assumed = read_model(model).assumed
        except HeatposeError:  # not a pose network
            return
        for text in assumed:
            typer.echo(f"Assumed: {text}")


def _file(model: Path, name: str | None, target: Target | None = None) -> Path:
    """Returns a file unchanged; for a bundle, the target's artefact, whose name is printed."""
    from heatpose.deploy.model import bundle_file, choose_model
    from heatpose.deploy.targets import load_target

    if not model.is_dir():
        return model
    if target is None and name is not None:
        target = load_target(name)
    found = bundle_file(model) if target is None else choose_model(model, target).path
    typer.echo(f"Of the bundle '{model}': {found.name}.")
    return found


def _inspection(model: Path) -> dict[str, Any]:
    from heatpose.runners import CHECKPOINTS
    from heatpose.runners.reading import describe_file
    from heatpose.tflite.inspect import inspect_onnx, inspect_tflite

    suffix = model.suffix.lower()
    if suffix in CHECKPOINTS:
        from heatpose.models.checkpoint import inspect_checkpoint

        return {**inspect_checkpoint(model), "assumed": {}, "computed": {}}
    inspection = inspect_onnx(model) if suffix == ".onnx" else inspect_tflite(model)
    return {**inspection.to_json(), **describe_file(model)}


def _target_findings(model: Path, target: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from heatpose.deploy.rules import check_target
    from heatpose.deploy.targets import load_target
    from heatpose.tflite.reader import read_graph

    if model.suffix.lower() != ".tflite":
        raise HeatposeError(
            f"'{model}' is not a TFLite file; target rules apply to TFLite files, so export"
            " first and inspect the exported file."
        )
    return [asdict(finding) for finding in check_target(read_graph(model), load_target(target))]


def _estimate(model: Path, board: Target, profile: str | None) -> Estimate:
    """Estimates a TFLite file, or the network in a checkpoint."""
    from heatpose.deploy.estimate import estimate as of_graph
    from heatpose.runners import CHECKPOINTS
    from heatpose.tflite.reader import read_graph

    model = _file(model, board.name, board)
    if model.suffix.lower() == ".onnx":
        raise HeatposeError(f"'{model}' is an ONNX file; give a TFLite file or a checkpoint.")
    if model.suffix.lower() in CHECKPOINTS:
        from heatpose.deploy.network_graph import graph_of_network
        from heatpose.models.checkpoint import load_checkpoint

        loaded = load_checkpoint(model)
        return of_graph(graph_of_network(loaded.network, loaded.preprocessing.size), board, profile)
    return of_graph(read_graph(model), board, profile)


def _dry_run(package: DeploymentPackage, json_out: Path | None) -> None:
    from heatpose.deploy.package import read_record
    from heatpose.deploy.rules import check_target
    from heatpose.deploy.stedgeai import is_installed, shell_line
    from heatpose.deploy.tables import package_lines

    command = None if package.command is None else shell_line(package.command)
    for line in package_lines(package, command, check_target(package.model.graph, package.target)):
        typer.echo(line)
    tool = package.target.tool
    if tool is not None and not is_installed(package.target):
        typer.echo(
            f"ST Edge AI Core ({tool.range_text()}, from st.com) was not found on this machine;"
            " install it, or run the folder's run.sh where it is installed. The next steps are in"
            " the folder's README.md."
        )
    write_json_output(json_out, read_record(package.folder))


def _built(
    package: DeploymentPackage,
    tool: Path | None,
    board: str | None,
    time_limit: float | None,
    app: str | None,
) -> ToolResult:
    from rich.console import Console
    from rich.markup import escape

    from heatpose.deploy.application import release_of
    from heatpose.deploy.build import build

    release = None if app is None else release_of(app)
    with Console(stderr=True).status("ST Edge AI Core starts") as status:
        shown = {"line": "", "percent": ""}

        def progress(line: str, percent: int | None) -> None:
            shown.update({"line": line[:100]} if percent is None else {"percent": f"{percent} % "})
            status.update(f"{shown['percent']}{escape(shown['line'])}")

        return build(
            package,
            explicit=tool,
            board=board,
            time_limit_s=time_limit,
            progress=progress,
            release=release,
        )


def _finish(result: ToolResult, package: DeploymentPackage, json_out: Path | None) -> None:
    """Prints and writes a result; a failure raises its sentence."""
    from heatpose.deploy.package import LOG
    from heatpose.deploy.tables import result_lines, result_table
    from heatpose.utils.progress import show

    show(result_table(result))
    for line in result_lines(result, package.folder):
        typer.echo(line)
    write_json_output(json_out, result.to_json())
    if result.failure is not None:
        raise HeatposeError(
            f"{result.failure.sentence.removesuffix('.')} (log: '{package.folder / LOG}')."
        )
