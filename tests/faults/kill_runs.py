"""Kills of trainings, exports and reports of a tiny network on rendered people.

(`kill_campaign.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kills import REPOSITORY, Tally, Warm, campaign, difference, json_files

NO_LIMITS = [
    "quant.limits.drift_p50_px=1000",
    "quant.limits.drop_pc=100",
    "quant.limits.drop_pt=100",
]
"""What a network of random weights loses is noise."""


@contextmanager
def warmed(folder: Path) -> Iterator[Warm]:
    """A warm process, ended with the campaign."""
    warm = Warm(folder)
    try:
        yield warm
    finally:
        warm.close()


def entry(name: str, folder: Path, data: Path, *overrides: str) -> list[str]:
    """`train.py` or `export.py` with a network and data that are tiny."""
    source = [f"data.source.root={data}", "data.source.train_images=12", "data.source.val_images=6"]
    loaders = [
        "data.workers=0",
        "data.batch_size=4",
        "data.module.held_out=0.3",
        "resolution=64",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
    ]
    network = [
        "model.width=0.1",
        "+model.last_channels=16",
        "+model.pyramid=[8,8,8,8]",
        "+model.head_channels=8",
        "callbacks.prediction_grid=null",
    ]
    places = [f"runs={folder}/runs", f"exports={folder}/exports"]
    return [
        str(REPOSITORY / f"{name}.py"),
        "experiment=quickstart",
        *source,
        *loaders,
        *network,
        *places,
        *overrides,
    ]


def broken_checkpoints(folder: Path) -> list[str]:
    """Checkpoints below a folder that cannot be read."""
    from heatpose.errors import HeatposeError
    from heatpose.models.checkpoint import load_checkpoint

    broken = []
    for path in folder.rglob("*.ckpt"):
        try:
            load_checkpoint(path)
        except HeatposeError as error:
            broken.append(str(error))
    return broken


def broken_bundles(folder: Path) -> list[str]:
    """Bundles that are not whole."""
    from heatpose.bundles.bundle import verify_bundle
    from heatpose.errors import HeatposeError

    broken = []
    for bundle in (
        path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")
    ):
        try:
            broken += verify_bundle(bundle).findings
        except HeatposeError as error:
            broken.append(str(error))
    return broken


def prepared(warm: Warm, folder: Path) -> Path:
    """Renders the data; a checkpoint of random weights."""
    checkpoint = folder / "first.ckpt"
    ended = warm(
        entry(
            "train",
            folder,
            folder / "data",
            "name=first",
            "fit=false",
            "export=false",
            "evaluate=false",
        )
    )
    if ended.status:
        raise RuntimeError(f"nothing can be prepared: {ended.said}")
    shutil.move(folder / "runs/first/checkpoints/initial.ckpt", checkpoint)
    shutil.rmtree(folder / "runs")
    return checkpoint


def kill_training(folder: Path, moments: int, seed: int) -> Tally:
    """Every checkpoint can be read, and the run ends as if it had not been killed.

    The same weights to 1e-6.
    """
    whole: dict[str, Any] = {}

    def start() -> list[str]:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        return entry(
            "train",
            folder,
            folder / "data",
            "name=killed",
            "trainer.max_epochs=3",
            "export=false",
            "evaluate=false",
        )

    def weights() -> dict[str, Any]:
        import torch

        return dict(
            torch.load(folder / "runs/killed/checkpoints/last.ckpt", weights_only=True)[
                "state_dict"
            ]
        )

    def check() -> list[str]:
        return broken_checkpoints(folder / "runs") + json_files(folder / "runs")

    def finished() -> list[str]:
        found = weights()
        if not whole:
            whole.update(found)
        apart = difference(found, whole)
        left = [f"'{path.name}' was left" for path in folder.rglob("*.part")]
        return (
            check()
            + left
            + ([f"the weights are {apart:.1e} from the undisturbed run's"] if apart > 1e-6 else [])
        )

    with warmed(folder) as warm:
        prepared(warm, folder)
        return campaign("training", start, check, finished, moments, seed, warm)


def exporting(folder: Path, checkpoint: Path, artefacts: str) -> list[str]:
    """The command line of an export; the checkpoint knows its data."""
    chosen = [
        f"checkpoint={checkpoint}",
        "name=killed",
        f"quant.artefacts={artefacts}",
        "quant.calibration_images=4",
        *NO_LIMITS,
    ]
    return [
        str(REPOSITORY / "export.py"),
        *chosen,
        f"runs={folder}/runs",
        f"exports={folder}/exports",
    ]


def kill_export(
    folder: Path, moments: int, seed: int, artefacts: str = "[float32,int8_pt]"
) -> Tally:
    """The older bundle stays whole until the new one takes its place."""

    def finished() -> list[str]:
        temporary = [
            f"'{path.name}' was left"
            for path in (folder / "exports").iterdir()
            if path.is_dir() and path.name.startswith(".")
        ]
        missing = [] if list((folder / "exports/killed").glob("*.onnx")) else ["there is no bundle"]
        return broken_bundles(folder / "exports") + temporary + missing

    with warmed(folder) as warm:
        command = exporting(folder, prepared(warm, folder), artefacts)
        what = "export" if artefacts != "[]" else "export of ONNX alone"
        return campaign(
            what,
            lambda: command,
            lambda: broken_bundles(folder / "exports"),
            finished,
            moments,
            seed,
            warm,
        )


def kill_report(folder: Path, moments: int, seed: int) -> Tally:
    """The page is the older one or the new one, whole.

    The bundle that it is part of is whole after the next run.
    """
    bundle = folder / "exports/killed"
    page = bundle / "report.html"

    def check() -> list[str]:
        text = page.read_text(encoding="utf-8")
        whole = text.startswith("<!") and text.rstrip().endswith("</html>")
        return json_files(bundle) + ([] if whole else ["the page is not whole"])

    def finished() -> list[str]:
        left = [
            f"'{path.name}' was left" for path in bundle.iterdir() if path.name.endswith(".part")
        ]
        return check() + broken_bundles(folder / "exports") + left

    with warmed(folder) as warm:
        ended = warm(exporting(folder, prepared(warm, folder), "[]"))
        if ended.status:
            raise RuntimeError(f"there is no bundle to report on: {ended.said}")
        command = [
            str(REPOSITORY / "src/heatpose/cli/__main__.py"),
            "report",
            str(bundle),
            "--out",
            str(page),
        ]
        return campaign("report", lambda: command, check, finished, moments, seed, warm)
