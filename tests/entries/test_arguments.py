"""Settings held against the signatures of what they make; the remedies that are shown are tried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

import heatpose.sweeps.hydra_callback  # noqa: F401  (registers the resolver that the configuration uses)
from heatpose.entries.arguments import check_arguments, made_of
from heatpose.errors import HeatposeError

CONF = Path(__file__).parents[2] / "conf"
TYPES = OmegaConf.load(CONF / "train.yaml")


@pytest.fixture(scope="module")
def conf() -> Iterator[None]:
    """Where the configuration is composed from."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def check(*overrides: str) -> None:
    """Composes and checks."""
    config = hydra.compose("train", ["experiment=quickstart", *overrides])
    assert isinstance(TYPES, DictConfig)
    check_arguments(config, TYPES)


@pytest.mark.usefixtures("conf")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=abc", "seed=abc is invalid: it must be a whole number."),
        ("export=no", "export=no is invalid: it must be true or false."),
        ("resolution=wide", "resolution=wide is invalid: it must be a whole number."),
        (
            "data.batch_size=many",
            "data.batch_size=many is invalid: it must be a whole number.",
        ),
        (
            "trainer.max_epochs=1.5",
            "trainer.max_epochs=1.5 is invalid: it must be a whole number or null.",
        ),
        ("model.width=wide", "model.width=wide is invalid: it must be a number."),
        ("model.width=true", "model.width=true is invalid"),
        ("model.width=null", "model.width=null is invalid"),
        ("model.upsample=cubic", "one of bilinear, nearest, transposed."),
        (
            "callbacks.early_stopping.patience=x",
            "callbacks.early_stopping.patience=x is invalid",
        ),
        (
            "quant.ptq.int8_pc.equalize=x",
            "quant.ptq.int8_pc.equalize=x is invalid: it must be a number or null.",
        ),
        (
            "+optimizer.momentum=0.9",
            "optimizer.momentum is not a setting of torch.optim.AdamW; its settings are params,",
        ),
        (
            "+trainer.foo=1",
            (
                "trainer.foo is not a setting of lightning.Trainer; its settings are in its"
                " documentation."
            ),
        ),
        ("+loss.score_wieght=1", "did you mean loss.score_weight?"),
        (
            "loss._target_=heatpose.models.losses.Nothing",
            "loss._target_=heatpose.models.losses.Nothing cannot be found",
        ),
        ("target.budget=3", "target.budget=3 is invalid: it must be a group of settings."),
    ],
)
def test_a_wrong_setting_is_named(override: str, words: str) -> None:
    with pytest.raises(HeatposeError, match=re.escape(words)):
        check(override)


@pytest.mark.usefixtures("conf")
@pytest.mark.parametrize(
    "override",
    [
        "boards=stm32n6",
        "objectives=oks",
        "quant.artefacts=int8_pc",
        "data.module.resolutions=192",
        "callbacks.ema=false",
    ],
)
def test_the_shown_remedy_passes(override: str) -> None:
    with pytest.raises(HeatposeError) as refused:
        check(override)
    (shown,) = re.findall(r"write (\S+?)(?:\.$| to omit)", str(refused.value))
    check(shown)


@pytest.mark.usefixtures("conf")
@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=auto",
        "trainer.devices=[0]",
        "trainer.precision=32",
        "+trainer.limit_train_batches=0.5",
        "trainer.max_epochs=null",
        "trainer.gradient_clip_val=null",
        "augment.photometric=null",
        "augment.geometric.degrees=22.5",
        "model.width=1",
        "data.workers=3",
        "data.cache=off",
        "name=2024",
        "+callbacks.ema.device=cpu",
        "+optimizer.betas=[0.9,0.99]",
    ],
)
def test_what_is_possible_passes(override: str) -> None:
    check(override)


def test_a_constructors_refusal_names_the_entry() -> None:
    with (
        pytest.raises(
            HeatposeError,
            match=r"The settings of optimizer are invalid \(Invalid learning rate: -1\)",
        ),
        made_of("optimizer"),
    ):
        raise ValueError("Invalid learning rate: -1")
