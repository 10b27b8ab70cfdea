"""Curves out of real logs: of a run's CSV, and of TensorBoard's event files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from heatpose.report.bundle import Bundle, read_bundle
from heatpose.report.curves import curves, read_log
from tests.conftest import Fitted


def _bundle(folder: Path, runs: Path, run: str, **config: Any) -> Bundle:
    folder.mkdir(parents=True)
    manifest = {"name": "b", "config": {"runs": str(runs), **config}, "provenance": {"run": run}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return read_bundle(folder)


def test_a_runs_table_is_read(fitted: Fitted, tmp_path: Path) -> None:
    run = fitted.run.folder
    bundle = _bundle(tmp_path / "exports" / "b", run.parent, run.name)
    log = read_log(bundle)
    assert log is not None
    expected = [(int(row["step"]), row["val/oks"]) for row in fitted.logged if "val/oks" in row]
    assert list(log.values["val/oks"]) == expected and len(expected) == 3
    oks, loss = (figure["spec"]["data"] for figure in curves([bundle])["figures"])
    assert list(zip(oks[0]["x"], oks[0]["y"], strict=True)) == expected
    assert {trace["name"] for trace in loss} == {"train/loss_step", "train/loss_epoch", "val/loss"}


def test_event_files_of_a_resumed_run_go_on(tmp_path: Path) -> None:
    from heatpose.utils.process import without_tensorflow

    without_tensorflow()
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "runs" / "name" / "tensorboard"
    for part, steps in enumerate((range(3), range(3, 6))):
        with SummaryWriter(str(folder), filename_suffix=f".{part}") as writer:
            for step in steps:
                writer.add_scalar("val/oks", 10.0 * step, step)
    # Moved together with its bundles: the configured folder is gone, the one beside them is there.
    log = read_log(_bundle(tmp_path / "exports" / "b", Path("runs"), "name"))
    assert log is not None and log.values == {"val/oks": [(step, 10.0 * step) for step in range(6)]}


def test_what_has_no_log_says_why(tmp_path: Path) -> None:
    (trained,) = curves([_bundle(tmp_path / "a" / "b", tmp_path / "runs", "gone")])["missing"]
    assert "are not found" in trained and str(tmp_path / "runs" / "gone") in trained
    untrained = curves([_bundle(tmp_path / "c" / "b", tmp_path / "runs", "gone", fit=False)])
    assert "without training" in untrained["missing"][0] and not untrained["figures"]
