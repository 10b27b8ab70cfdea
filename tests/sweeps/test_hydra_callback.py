"""Names of a sweep's runs, and what a failing run does."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from heatpose.errors import HeatposeError, InterruptedRun
from heatpose.sweeps.hydra_callback import (
    LONGEST,
    Task,
    run_entry,
    run_folder,
    safe_name,
    width_suffix,
)
from heatpose.training.result import BoardNumbers, RunResult

CONF = Path(__file__).parents[2] / "conf"

pytestmark = pytest.mark.usefixtures("hydra_as_before")


def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *overrides: str) -> list[str]:
    """Folders of the runs, as `train.py -m overrides` gives them."""
    folders: list[str] = []

    @hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
    def main(config: DictConfig) -> Any:
        return run_entry(
            lambda c: folders.append(run_folder(c).relative_to(tmp_path).as_posix()), config
        )

    monkeypatch.setattr("sys.argv", ["train.py", "-m", f"runs={tmp_path}", *overrides])
    main()
    records = {
        path.parents[2].relative_to(tmp_path).as_posix()
        for path in tmp_path.glob("*/hydra/config/config.yaml")
    }
    assert records == set(folders)  # Hydra's own records lie in the member's folder
    return folders


def test_a_sweep_runs_name_has_only_the_swept_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = swept(
        monkeypatch,
        tmp_path,
        "experiment=quickstart",
        "resolution=64,96",
        "trainer.max_epochs=1",
        "model.width=0.35,0.5",
        "data.source.root=/a/b",
    )
    assert found == [
        f"quickstart_model.width-{width}_resolution-{side}"
        for side in (64, 96)
        for width in (0.35, 0.5)
    ]


def test_experiments_have_names_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = swept(
        monkeypatch, tmp_path, "experiment=quickstart,movenet_lightning_heatmaps", "seed=1"
    )
    assert found == ["quickstart", "movenet_lightning_heatmaps_192"]
    found = swept(
        monkeypatch,
        tmp_path / "named",
        "experiment=quickstart,movenet_lightning_heatmaps",
        "name=mine",
    )
    assert found == ["mine_experiment-quickstart", "mine_experiment-movenet_lightning_heatmaps"]


def test_what_the_experiments_name_has_is_not_added_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = [
        "experiment=st_movenet_13kpt",
        "recipe=scratch",
        "resolution=192,224",
        "model.width=0.5,1.0",
    ]
    found = swept(monkeypatch, tmp_path / "a", *sweep)
    assert found == [
        "st_movenet_13kpt_192_w050",
        "st_movenet_13kpt_192",
        "st_movenet_13kpt_224_w050",
        "st_movenet_13kpt_224",
    ]
    found = swept(monkeypatch, tmp_path / "b", *sweep[:3], "model.width=0.75", "seed=1,2")
    assert found[0] == "st_movenet_13kpt_192_w075_seed-1" and len(set(found)) == 4
    found = swept(monkeypatch, tmp_path / "c", *sweep[:3], "name=mine")
    assert found == ["mine_resolution-192", "mine_resolution-224"]


@pytest.mark.parametrize(
    ("width", "suffix"),
    [(1.0, ""), (1, ""), (0.35, "_w035"), (0.5, "_w050"), (1.4, "_w140"), (0.375, "_w0375")],
)
def test_widths_in_names(width: float, suffix: str) -> None:
    assert width_suffix(width) == suffix


def test_swept_paths_make_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = swept(
        monkeypatch,
        tmp_path,
        "init=checkpoint",
        "init.path=runs/a/best.ckpt,runs-a-best.ckpt,../x",
        "name=warm",
    )
    assert len(set(found)) == 3 and all(
        name.startswith("warm_init.path-") and "/" not in name for name in found
    )


def test_safe_names_differ_where_the_texts_do() -> None:
    assert safe_name("resolution-224_model.width-0.5") == "resolution-224_model.width-0.5"
    texts = ["a/b", "a-b", "a b", "a,b", "../a", "x" * 200, "x" * 201, "ä", "lr-0.001"]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= LONGEST and "/" not in name and name.isascii() for name in names)


def test_outside_sweeps_the_name_is_the_name() -> None:
    config = OmegaConf.create({"runs": "runs", "name": "mine", "run": "${name}${sweep_suffix:}"})
    assert run_folder(config) == Path("runs/mine")


def called(monkeypatch: pytest.MonkeyPatch, task: Task, *arguments: str) -> int:
    """Exit status of a sweep of the task, called as `train.py -m arguments`."""

    @hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
    def main(config: DictConfig) -> Any:
        return run_entry(task, config)

    monkeypatch.setattr("sys.argv", ["train.py", "-m", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def table(folder: Path) -> list[dict[str, str]]:
    """Rows of a sweep's csv."""
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_run_that_fails_does_not_stop_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> RunResult:
        if config.seed == 1:
            raise HeatposeError("Seed 1 is bad; use another.")
        if config.seed == 2:
            raise ZeroDivisionError("what nobody thought of")
        return RunResult(oks=40.0 + config.seed)

    assert called(monkeypatch, task, f"runs={tmp_path}", "seed=0,1,2,3") == 1
    out = capsys.readouterr()
    errors = [line for line in out.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: Seed 1 is bad; use another.",
        "error: ZeroDivisionError: what nobody thought of",
        "error: heatpose_seed-1: Seed 1 is bad; use another.",
        "error: heatpose_seed-2: ZeroDivisionError: what nobody thought of",
        "error: 2 of the sweep's runs failed; run the same command to repeat only those.",
    ]
    assert out.err.count("Traceback") == 1  # of the one that is no user's mistake
    rows = table(tmp_path / "heatpose_sweep_seed")
    assert [(row["run"], row["seed"], row["oks"], row["status"]) for row in rows] == [
        ("heatpose_seed-0", "0", "40.0", "finished"),
        ("heatpose_seed-1", "1", "", "failed"),
        ("heatpose_seed-2", "2", "", "failed"),
        ("heatpose_seed-3", "3", "43.0", "finished"),
    ]
    assert rows[1]["reason"] == "Seed 1 is bad; use another."
    assert "heatpose_sweep_seed" in out.out and "43.00" in out.out


def test_what_is_finished_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[int, float]] = []

    def task(config: DictConfig) -> RunResult:
        ran.append((config.seed, config.optimizer.lr))
        if (config.seed, len(ran)) == (1, 2):
            raise HeatposeError("Bad luck; try again.")
        return RunResult(oks=50.0)

    sweep = [f"runs={tmp_path}", "seed=0,1"]
    assert called(monkeypatch, task, *sweep) == 1 and called(monkeypatch, task, *sweep) == 0
    assert [seed for seed, _ in ran] == [0, 1, 1]
    out = capsys.readouterr().out
    assert out.count("heatpose_seed-0: already finished with this configuration") == 1
    assert [row["status"] for row in table(tmp_path / "heatpose_sweep_seed")] == [
        "finished",
        "finished",
    ]
    called(monkeypatch, task, *sweep, "optimizer.lr=0.5")  # another configuration
    called(monkeypatch, task, *sweep, "optimizer.lr=0.5", "resume=false")  # asked for
    assert ran[3:] == [(0, 0.5), (1, 0.5)] * 2
    called(monkeypatch, task, f"runs={tmp_path}", "seed=1,5", "optimizer.lr=0.5")
    # the table is this call's
    assert len(ran) == 8 and [row["seed"] for row in table(tmp_path / "heatpose_sweep_seed")] == [
        "1",
        "5",
    ]


def test_ctrl_c_ends_the_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def task(config: DictConfig) -> RunResult:
        ran.append(config.seed)
        raise InterruptedRun("Training was interrupted; the same command goes on.")

    assert called(monkeypatch, task, f"runs={tmp_path}", "seed=0,1") == 1
    assert ran == [0] and "error: Training was interrupted" in capsys.readouterr().err


def test_a_refused_export_fails_with_its_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def task(config: DictConfig) -> RunResult:
        return RunResult(
            "failed",
            "int8_pc failed an acceptance check.",
            oks=60.0,
            files={"int8_pc": 12.5},
            boards={"stm32n6": BoardNumbers("int8_pc", 12.5, 16.0)},
        )

    assert called(monkeypatch, task, f"runs={tmp_path}", "seed=0,1") == 1
    first = table(tmp_path / "heatpose_sweep_seed")[0]
    assert (
        first["oks"],
        first["int8_pc_oks"],
        first["stm32n6_ms"],
        first["stm32n6_ram_kib"],
        first["status"],
    ) == ("60.0", "12.5", "16.0", "", "failed")
    with pytest.raises(SystemExit):  # outside sweeps as well
        run_entry(
            task, OmegaConf.create({"run": "x", "runs": str(tmp_path), "objectives": ["oks"]})
        )


@pytest.mark.slow
def test_a_search_by_optuna_is_a_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy rises with both, time with the square of the side.

    The best runs lie on the hull of what was tried.
    """

    def task(config: DictConfig) -> RunResult:
        oks, ms = (
            50 + config.resolution / 32 + config.model.width,
            (config.resolution / 32) ** 2 * config.model.width,
        )
        return RunResult(oks=oks, boards={"stm32n6": BoardNumbers("int8_pc", oks, ms)})

    search = [f"runs={tmp_path}", "sweep=accuracy_latency"]
    assert called(monkeypatch, task, *search, "hydra.sweeper.trials=5") == 0
    folder = tmp_path / "heatpose_sweep_model.width_resolution"
    assert len(json.loads((folder / "best.json").read_text())["best"]) >= 1
    assert called(monkeypatch, task, *search, "hydra.sweeper.trials=8") == 0  # goes on: three more
    kept = json.loads((folder / "best.json").read_text())
    rows = table(folder)
    tried = {(float(row["stm32n6_oks"]), float(row["stm32n6_ms"])) for row in rows}
    hull = {a for a in tried if not any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in tried)}
    assert (
        kept["trials"] == 8
        and {(b["values"]["int8_oks"], b["values"]["ms"]) for b in kept["best"]} == hull
    )
    assert {row["resolution"] for row in rows} <= {"160", "192", "224", "256"} and len(rows) <= 8
    assert "(Pareto-optimal)" in capsys.readouterr().out


def test_outside_sweeps_a_mistake_ends_the_command() -> None:
    def task(config: DictConfig) -> RunResult:
        raise HeatposeError("No.")

    assert not HydraConfig.initialized()
    with pytest.raises(SystemExit) as ended:
        run_entry(task, OmegaConf.create({"run": "x"}))
    assert ended.value.code == 1
