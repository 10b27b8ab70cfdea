"""Names of earlier versions are refused in one sentence with the name of now."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from heatpose.entries import command_line
from tests.conftest import Heatpose

CONF = Path(__file__).parents[2] / "conf"

pytestmark = pytest.mark.usefixtures("hydra_as_before")


OLD_KEYS = [
    ("quant.forms=[float32]", "quant.artefacts=[float32]"),
    ("quant.recovery=null", "quant.ptq=null"),
    ("quant.recovery.int8_pc.balance=0.5", "quant.ptq.int8_pc.equalize=0.5"),
    ("quant.recovery.int8_pt.tail=0", "quant.ptq.int8_pt.clip_quantile=0"),
    ("quant.ptq.int8_pt.bury_dead=false", "quant.ptq.int8_pt.fold_constant_channels=false"),
    ("quant.ptq.int8_pc.centre=false", "quant.ptq.int8_pc.absorb_bias=false"),
    ("quant.tuning.int8_pc=null", "quant.qat.int8_pc=null"),
    ("quant.settling.steps=10", "quant.upsampling_tuning.steps=10"),
    ("quant.auto.share=0.5", "quant.auto.holdout=0.5"),
    ("quant.auto.views=100", "quant.auto.samples=100"),
    ("callbacks.pictures.people=4", "callbacks.prediction_grid.instances=4"),
    ("callbacks.prediction_grid.people=4", "callbacks.prediction_grid.instances=4"),
    ("data.module.people=4", "data.module.instances=4"),
]


@pytest.mark.parametrize(("old", "new"), OLD_KEYS)
def test_an_old_key_is_refused_with_the_new_one(heatpose: Heatpose, old: str, new: str) -> None:
    base = ["experiment=quickstart", "quant=auto", "debug=overfit", "--cfg", "job"]
    ran = heatpose("train", *base, old)
    key = old.partition("=")[0]
    assert (ran.status, ran.err) == (1, f"error: {key} was renamed; write {new}.\n")
    assert heatpose("train", *base, new).status == 0


def test_every_old_key_is_tried_above() -> None:
    tried = {part for old, _ in OLD_KEYS for part in old.partition("=")[0].split(".")}
    assert {old.rpartition(".")[2] for old in command_line.OLD_KEYS} <= tried


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("experiment=st_movenet_13kpt_192", "experiment=st_movenet_13kpt"),
        ("experiment=st_movenet_13kpt_224", "experiment=st_movenet_13kpt resolution=224"),
        ("experiment=st_movenet_17kpt_256", "experiment=st_movenet_17kpt resolution=256"),
        (
            "experiment=st_movenet_13kpt_192_w035",
            "experiment=st_movenet_13kpt recipe=scratch model.width=0.35",
        ),
        ("experiment=movenet_lightning_192", "experiment=movenet_lightning"),
        ("experiment=movenet_thunder_256", "experiment=movenet_thunder"),
        (
            "experiment=movenet_lightning_heatmaps_224",
            "experiment=movenet_lightning_heatmaps resolution=224",
        ),
        ("loss=oks_kernel", "loss=spatial_cross_entropy loss.spread=1.0"),
        ("loss=one_hot_mse", "--config-dir benchmarks/conf loss=one_hot_mse"),
        ("recipe=ladder_a0", "--config-dir benchmarks/conf recipe=ladder_a0"),
        ("distill=teacher", "distill.path=TEACHER"),
    ],
)
def test_an_old_choice_is_refused_with_the_new_command(
    heatpose: Heatpose, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.chdir(CONF.parent)
    ran = heatpose("train", "--cfg", "job", old)
    assert (ran.status, ran.err) == (1, f"error: {old} was replaced; use {new}.\n")
    ran = heatpose("train", "--cfg", "job", *shlex.split(new))
    assert ran.status == 0, ran.err
    if old.startswith("experiment="):
        name = yaml.safe_load(ran.out)["name"].partition("$")[0]
        assert name and old.partition("=")[2].startswith(name)


def test_old_keys_of_a_users_own_files_are_refused(heatpose: Heatpose, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart]\ncallbacks: {pictures: null}\n"
    )
    runs = [f"runs={tmp_path}/runs", f"exports={tmp_path}/exports"]
    ran = heatpose("train", "--config-dir", tmp_path, "experiment=mine", *runs)
    assert (ran.status, ran.err) == (
        1,
        "error: callbacks.pictures was renamed; write callbacks.prediction_grid.\n",
    )
    added = heatpose("train", "experiment=quickstart", "+quant.recovery.int8_pc=null", *runs)
    assert added.err == "error: quant.recovery was renamed; write quant.ptq.\n"


def test_a_users_own_choice_may_have_an_old_name(heatpose: Heatpose, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/st_movenet_13kpt_224.yaml").write_text(
        "# @package _global_\nname: mine\n"
    )
    ran = heatpose(
        "train", "--config-dir", tmp_path, "--cfg", "job", "experiment=st_movenet_13kpt_224"
    )
    assert ran.status == 0 and yaml.safe_load(ran.out)["name"] == "mine"


def test_an_old_resolver_is_refused(heatpose: Heatpose) -> None:
    ran = heatpose("train", "--cfg", "job", "run='${name}${member_suffix:}'")
    assert ran.status == 1 and ran.err.startswith("error: ${member_suffix:} was renamed; write ")
    assert "sweep_suffix" in ran.err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("report", "exports/a", "--no-pictures"), "--no-gallery"),
        (("debug-quant", "exports/a", "photos", "--form", "int8_pt"), "--artefact"),
        (("debug-quant", "exports/a", "photos", "--form=int8_pt"), "--artefact"),
    ],
)
def test_an_old_option_is_refused(heatpose: Heatpose, old: tuple[str, ...], new: str) -> None:
    ran, option = heatpose(*old), next(part for part in old if part.startswith("--"))
    written = option.partition("=")[0]
    assert (ran.status, ran.err) == (2, f"error: {written} was renamed; write {new}.\n")
