"""Several runs from one command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.deploy.estimate import estimate
from heatpose.deploy.targets import load_target
from heatpose.models.checkpoint import load_checkpoint
from heatpose.tflite.reader import read_graph

pytestmark = pytest.mark.slow


NO_LIMITS = [
    "quant.limits.drop_pc=1000",
    "quant.limits.drift_p50_px=1000",
    "quant.calibration_images=8",
]
"""Drops of a network that is hardly trained are noise."""


def tiny(place: Any, *overrides: str) -> list[str]:
    """Overrides of a sweep of seconds; what `overrides` set takes the place of the usual."""
    own = {override.partition("=")[0] for override in overrides}
    return [
        "-m",
        *(override for override in place.tiny if override.partition("=")[0] not in own),
        *overrides,
    ]


def table(folder: Path) -> list[dict[str, str]]:
    """Rows of a sweep's csv."""
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_goes_all_the_way_and_is_not_run_twice(place: Any) -> None:
    sweep = tiny(place, "resolution=64,100", "quant=int8_pc", *NO_LIMITS)
    ran = place.run("train", *sweep)
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert ran.status == 1 and "Traceback" not in ran.err, ran.err
    assert (
        errors[-2].startswith("error: quickstart_resolution-100: ")
        and "multiple of 32" in errors[-2]
        and "1 of the sweep's runs failed" in errors[-1]
    )
    folder, bundle = (
        Path(place.folder, "runs/quickstart_sweep_resolution"),
        Path(place.folder, "exports/quickstart_resolution-64"),
    )
    whole, failed = table(folder)
    scores = json.loads((bundle / "metrics.json").read_text())["artefacts"]
    assert float(whole["oks"]) == pytest.approx(scores["torch"]["report"]["oks"])
    assert (
        float(whole["int8_pc_oks"])
        == float(whole["stm32n6_oks"])
        == pytest.approx(scores["int8_pc"]["report"]["oks"])
    )
    board = load_target("stm32n6")
    expected = estimate(read_graph(next(bundle.glob("*_int8_pc.tflite"))), board)
    assert expected.ms is not None and float(whole["stm32n6_ms"]) == pytest.approx(
        expected.ms.value
    )
    assert failed["status"] == "failed" and failed["stm32n6_ms"] == ""
    assert bundle.name in (folder / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == {
        "members",
        "multirun.yaml",
        "report.html",
        "sweep.csv",
    }

    before = (bundle / "manifest.json").read_bytes()
    again = place.run("train", *sweep)
    assert (
        again.status == 1
        and "quickstart_resolution-64: already finished with this configuration" in again.out
    )
    assert (bundle / "manifest.json").read_bytes() == before and table(folder)[0] == whole


def test_every_sweep_run_has_its_own_folder(place: Any) -> None:
    ran = place.run("train", *tiny(place, "resolution=64,96", "export=false"))
    assert ran.status == 0, ran.err
    sweep_runs = {
        size: Path(place.folder, f"runs/quickstart_resolution-{size}") for size in (64, 96)
    }
    for size, folder in sweep_runs.items():
        loaded = load_checkpoint(folder / "checkpoints/best.ckpt")
        assert loaded.preprocessing.size == size and loaded.metadata["run"] == folder.name
        assert (
            json.loads((folder / "configuration.json").read_text())["configuration"]["resolution"]
            == size
        )
        assert (
            list((folder / "tensorboard").iterdir())
            and (folder / "hydra/config/config.yaml").is_file()
        )
        assert json.loads((folder / "result.json").read_text())["boards"]["stm32n6"]["ms"] > 0
    assert {path.name for path in place.folder.joinpath("runs").iterdir()} == {
        "quickstart_sweep_resolution",
        *(path.name for path in sweep_runs.values()),
    }


def test_resolutions_can_share_one_training(place: Any) -> None:
    ran = place.run(
        "train", *tiny(place, "sweep=shared_weights", "resolution=64,96", "export=false")
    )
    assert ran.status == 0, ran.err
    runs = Path(place.folder, "runs")
    shared = load_checkpoint(runs / "quickstart_shared/checkpoints/best.ckpt")
    assert json.loads((runs / "quickstart_shared/configuration.json").read_text())["configuration"][
        "data"
    ]["module"]["resolutions"] == [64, 96]
    assert ran.out.count(" million parameters on ") == 1  # one training
    for size in (64, 96):
        sweep_run = load_checkpoint(
            runs / f"quickstart_shared_resolution-{size}/checkpoints/best.ckpt"
        )
        assert sweep_run.preprocessing.size == size
        assert all(
            torch.equal(value, shared.network.state_dict()[name])
            for name, value in sweep_run.network.state_dict().items()
        )
    times = [float(row["stm32n6_ms"]) for row in table(runs / "quickstart_shared_sweep_resolution")]
    assert times[0] < times[1]


@pytest.mark.parametrize(
    "launcher",
    [["parallel", "hydra.launcher.n_jobs=2"], ["local_jobs"]],
    ids=lambda launcher: launcher[0],
)
def test_sweep_runs_have_their_own_processes(place: Any, launcher: list[str]) -> None:
    """The one that fails, with an unsupported resolution, is reported as well."""
    ran = place.run_cold(
        "train",
        *tiny(
            place,
            f"hydra/launcher={launcher[0]}",
            *launcher[1:],
            "resolution=64,100",
            "export=false",
            "evaluate=false",
        ),
    )
    assert (
        ran.status == 1 and "error: quickstart_resolution-100: Resolution 100 is not" in ran.err
    ), ran.err
    rows = table(Path(place.folder, "runs/quickstart_sweep_resolution"))
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert Path(place.folder, "runs/quickstart_resolution-64/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-4), ("bf16-mixed", 0.02)])
def test_two_processes_train_the_same_as_one(precision: str, tolerance: float, place: Any) -> None:
    """The same batches, shared out: loss and score differ by rounding.

    Without batch norm, whose statistics on processors are each process's own.

    In a sweep, because a further process must not start the sweep again.
    """
    common = [
        "model.norm=false",
        "evaluate=false",
        "export=false",
        "logger=csv",
        "trainer.log_every_n_steps=1",
        "trainer.max_epochs=2",
        "data.batch_size=8",
    ]
    common.append(f"trainer.precision={precision}")
    curves = []
    for processes in (2, 1):
        devices = [
            f"trainer.devices={processes}",
            f"trainer.strategy={'ddp' if processes > 1 else 'auto'}",
            f"name=p{processes}",
        ]
        ran = place.run("train", *tiny(place, *common, *devices))
        assert ran.status == 0, ran.err
        with Path(place.folder, f"runs/p{processes}/csv/metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        curves.append(
            {
                name: [float(row[name]) for row in rows if row[name]]
                for name in ("train/loss_step", "train/loss_epoch", "val/oks")
            }
        )
    assert len(curves[0]["train/loss_step"]) >= 4 and len(curves[0]["val/oks"]) == 2
    for name, values in curves[0].items():
        if precision == "32-true" or "loss" in name:  # the score steps from cell to cell
            assert values == pytest.approx(curves[1][name], rel=tolerance), name
    written = [
        path.relative_to(place.folder / "runs/p2").as_posix()
        for path in (place.folder / "runs/p2").rglob("*")
        if path.suffix in (".ckpt", ".csv")
    ]
    assert sorted(written) == ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "csv/metrics.csv"]
    # one member, though two processes read the command line
    assert [row["run"] for row in table(place.folder / "runs/p2_sweep")] == ["p2"]


def test_a_failing_sweep_run_does_not_stop_others(place: Any) -> None:
    few = "data.module.held_out=1.0e-9"  # leaves no instance for model selection
    ran = place.run(
        "train", "-m", *place.tiny, "evaluate=false", "export=false", "resolution=100,64", few
    )
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert (
        ran.status == 1
        and len(errors) == 5
        and "2 of the sweep's runs failed" in errors[-1]
        and "Traceback" not in ran.err
    )
    assert "multiple of 32" in errors[0] and "held out" in errors[1]
    assert [error.partition(": ")[2] for error in errors[:2]] == [
        error.split(": ", 2)[2] for error in errors[2:4]
    ]
