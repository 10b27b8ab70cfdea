"""Names of a sweep's members, and what a failing member does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf

from heatpose.errors import HeatposeError
from heatpose.sweep import LONGEST, member_suffix, run_entry, run_folder, safe_name

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def hydra_as_before() -> Iterator[None]:
    state = Singleton.get_state()
    yield
    GlobalHydra.instance().clear()
    Singleton.set_state(state)


def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *overrides: str) -> list[str]:
    """Runs folders of the members, as `train.py -m overrides` gives them."""
    folders: list[str] = []

    @hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
    def main(config: DictConfig) -> float | None:
        return run_entry(lambda c: folders.append(run_folder(c).relative_to(tmp_path).as_posix()), config)

    monkeypatch.setattr("sys.argv", ["train.py", "-m", f"runs={tmp_path}", *overrides])
    main()
    records = {path.parents[2].relative_to(tmp_path).as_posix() for path in tmp_path.rglob("hydra/config/config.yaml")}
    assert records == set(folders)  # Hydra's own records lie in the member's folder
    return folders


def test_a_members_name_has_what_is_swept_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = swept(monkeypatch, tmp_path, "experiment=quickstart", "resolution=64,96", "trainer.max_epochs=1", "model.width=0.35,0.5", "data.source.root=/a/b")
    assert found == [f"quickstart_model.width-{width}_resolution-{side}" for side in (64, 96) for width in (0.35, 0.5)]


def test_experiments_have_names_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = swept(monkeypatch, tmp_path, "experiment=quickstart,movenet_lightning_heatmaps_192", "seed=1")
    assert found == ["quickstart", "movenet_lightning_heatmaps_192"]
    found = swept(monkeypatch, tmp_path / "named", "experiment=quickstart,movenet_lightning_heatmaps_192", "name=mine")
    assert found == ["mine_experiment-quickstart", "mine_experiment-movenet_lightning_heatmaps_192"]


def test_swept_paths_make_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = swept(monkeypatch, tmp_path, "init=checkpoint", "init.path=runs/a/best.ckpt,runs-a-best.ckpt,../x", "name=warm")
    assert len(set(found)) == 3 and all(name.startswith("warm_init.path-") and "/" not in name for name in found)


def test_safe_names_differ_where_the_texts_do() -> None:
    assert safe_name("resolution-224_model.width-0.5") == "resolution-224_model.width-0.5"
    texts = ["a/b", "a-b", "a b", "a,b", "../a", "x" * 200, "x" * 201, "ä", "lr-0.001"]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= LONGEST and "/" not in name and name.isascii() for name in names)


def test_outside_sweeps_the_name_is_the_name() -> None:
    assert member_suffix() == ""
    config = OmegaConf.create({"runs": "runs", "name": "mine", "run": "${name}${member_suffix:}"})
    assert run_folder(config) == Path("runs/mine")


def test_a_member_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def task(config: DictConfig) -> float:
        if config.seed == 1:
            raise HeatposeError("Seed 1 is bad; use another.")
        done.append(int(config.seed))
        return 1.0

    @hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
    def main(config: DictConfig) -> float | None:
        return run_entry(task, config)

    monkeypatch.setattr("sys.argv", ["train.py", "-m", f"runs={tmp_path}", "seed=0,1,2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and done == [0, 2]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: Seed 1 is bad; use another.", "error: 1 of the sweep's runs failed, for the reasons above: heatpose_seed-1."]


def test_outside_sweeps_a_mistake_ends_the_command() -> None:
    def task(config: DictConfig) -> float:
        raise HeatposeError("No.")

    assert not HydraConfig.initialized()
    with pytest.raises(SystemExit) as ended:
        run_entry(task, OmegaConf.create({"run": "x"}))
    assert ended.value.code == 1
