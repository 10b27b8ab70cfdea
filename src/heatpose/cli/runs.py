"""Commands `heatpose train`, `export`, `doctor`, `verify`, `report` and `debug-quant`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.cli.options import JsonOut
from heatpose.errors import HeatposeError
from heatpose.utils.files import write_json_output

if TYPE_CHECKING:
    from heatpose.doctor.trial import Step


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help=(
            "As for train.py and export.py: KEY=VALUE and Hydra's options, such as"
            " experiment=quickstart, -m, --cfg job."
        )
    ),
]
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""Settings of these commands: all options, including --help, are passed to Hydra."""


def train(overrides: Overrides = None) -> None:
    """Train, score and export a network as configured, for example experiment=quickstart."""
    from heatpose.entries.jobs import train_main as main

    _with_arguments(main, "train", overrides)


def export(overrides: Overrides = None) -> None:
    """Export a checkpoint, or imported weights, as a validated bundle."""
    from heatpose.entries.jobs import export_main as main

    _with_arguments(main, "export", overrides)


def _with_arguments(main: Callable[[], None], name: str, overrides: list[str] | None) -> None:
    """Runs an entry point; Hydra reads `sys.argv`."""
    sys.argv = [f"heatpose {name}", *(overrides or [])]
    main()


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="Also check this data set: a folder as in data.root."),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Train, score and export a tiny network, and measure.")
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Check versions, devices, disks, tools and data, and print a remedy for each problem."""
    from heatpose.doctor import examine, to_json
    from heatpose.doctor.checks import check_table
    from heatpose.doctor.trial import run_trial
    from heatpose.utils.progress import show

    checks = examine(data)
    show(check_table(checks))
    steps = run_trial(_print_step) if run else []
    write_json_output(json_out, to_json(checks, steps))
    everything = [*checks, *steps]
    failed = [check.name for check in everything if check.status == "fail"]
    if failed:
        raise HeatposeError(
            f"{len(failed)} of {len(everything)} checks failed ({', '.join(failed)});"
            " see their remedies above."
        )


def _print_step(step: Step) -> None:
    """Prints a finished step and its remedy, if any."""
    typer.echo(f"{step.status:4}  {step.seconds:6.1f} s  {step.name}: {step.found}")
    if step.remedy:
        typer.echo(f"      {step.remedy}")


def verify(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle (exports/NAME), or the name of a released network."
        ),
    ],
    json_out: JsonOut = None,
) -> None:
    """Compare a bundle's files with the hashes in its manifest."""
    from heatpose.bundles.bundle import verify_bundle
    from heatpose.bundles.released import resolve_bundle

    bundle = resolve_bundle(bundle)
    found = verify_bundle(bundle)
    for sentence in found.findings:
        typer.echo(sentence)
    write_json_output(json_out, found.to_json())
    if found.findings:
        raise HeatposeError(
            f"'{bundle}' differs from what was exported ({len(found.findings)} findings above);"
            " export it again, or get it from its source again."
        )
    typer.echo(f"'{bundle}' is intact: {found.files} files have the recorded sha256.")


def report(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            help=(
                "Folders of bundles, or names of released networks; the others are compared with"
                " the first."
            )
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[
        str | None, typer.Option(help="Title of the page; the names of the bundles by default.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the evaluation set's images, if they have moved since the export."
        ),
    ] = None,
    show_images: Annotated[
        bool,
        typer.Option(
            "--gallery/--no-gallery",
            help="Show predictions on images, which are embedded in the page.",
        ),
    ] = True,
) -> None:
    """Write an HTML report on one bundle, or a comparison of several."""
    from heatpose.bundles.released import resolve_bundle
    from heatpose.report import write_report

    bundles = [resolve_bundle(bundle) for bundle in bundles]
    path = write_report(bundles, out, title=title, images=images, show_images=show_images)
    typer.echo(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB) opens in any browser, without network access."
    )


class Int8Artefact(StrEnum):
    """int8 variant."""

    int8_pc = "int8_pc"
    int8_pt = "int8_pt"


def debug_quant(
    bundle: Annotated[Path, typer.Argument(help="A bundle with the float file and the int8 file.")],
    sources: Annotated[
        list[Path], typer.Argument(help="Images and folders of images to compare the files on.")
    ],
    artefact: Annotated[Int8Artefact, typer.Option(help="The int8 file.")] = Int8Artefact.int8_pc,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; debug_<artefact> in the bundle by default."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many images.", min=1)] = 200,
) -> None:
    """Show where an int8 file differs from its float file: keypoints, images, layers."""
    from rich.console import Console

    from heatpose.quantize.debug import debug_bundle

    folder = debug_bundle(bundle, sources, str(artefact), out, limit, Console())
    typer.echo(f"{folder} has drift.csv, layers.csv, layers.html and worst.jpg.")
