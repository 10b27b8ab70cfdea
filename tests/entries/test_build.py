"""From a composed configuration to a trained and scored network.

And what the entries do in between.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, open_dict

from heatpose.data.sources import CocoSource, SyntheticSource
from heatpose.entries import build
from heatpose.errors import HeatposeError
from heatpose.evaluation.evaluate import evaluate
from heatpose.models.checkpoint import load_checkpoint, save_checkpoint
from heatpose.models.losses import GaussianMSE, SpatialCrossEntropy
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.runners.torch_runner import TorchRunner
from heatpose.tflite.inspect import inspect_onnx
from heatpose.training import fit as training
from heatpose.training.callbacks import PredictionGrid
from tests.conftest import Heatpose

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def config(synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The quick start on the tests' images, one epoch of a tiny network."""
    return composed(
        monkeypatch,
        "train",
        "experiment=quickstart",
        f"data.source.root={synthetic_root.parent}",
        "data.source.train_images=40",
        "data.source.val_images=12",
        "data.batch_size=8",
        "data.workers=0",
        "data.module.held_out=0.3",
        "data.module.limit=24",
        "model.width=0.35",
        "resolution=64",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "logger=csv",
        "export=false",
        "callbacks.progress=null",
        f"runs={tmp_path}/runs",
        f"exports={tmp_path}/exports",
        f"data.cache={tmp_path}/pictures",
    )


def composed(monkeypatch: pytest.MonkeyPatch, entry: str, *overrides: str) -> DictConfig:
    """As `hydra.main` composes it."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        whole = hydra.compose(entry, list(overrides), return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(whole)
    with open_dict(whole):
        del whole["hydra"]
    return whole


def test_the_configured_run_trains_and_scores(config: DictConfig, tmp_path: Path) -> None:
    build.setup_libraries(config)
    skeleton, preprocessing, source = build.build_inputs(config)
    assert (
        skeleton == ST_13
        and preprocessing == Preprocessing(64)
        and isinstance(source, SyntheticSource)
    )
    folder = tmp_path / "runs" / "quickstart"
    assert training.open_run(folder, build.run_identity(config), config.resume) is None
    network = build.build_network(config, skeleton)
    assert network.settings["width"] == 0.35
    module = build.build_module(config, network, skeleton, preprocessing, source)
    data = build.build_data(config, source, skeleton, preprocessing)
    best = training.fit(module, data, build.build_trainer(config, folder), None)
    assert best == folder / "checkpoints" / "best.ckpt"
    loaded = load_checkpoint(best)
    assert (
        loaded.metadata["run"] == "quickstart" and loaded.metadata["model"] == "st_movenet_heatmaps"
    )
    assert loaded.metadata["data"] == source.describe()
    assert (folder / "csv" / "metrics.csv").is_file()

    instances = source.evaluation(skeleton)
    assert instances is not None and len(instances) == 12
    score = build.evaluate_and_export(config, best, source).oks
    expected = evaluate(TorchRunner(best, loaded), instances, skeleton, progress=False).oks
    assert score == pytest.approx(expected, abs=1e-3)
    config.evaluate = False
    assert build.evaluate_and_export(config, best, source).oks is None


def test_a_source_without_evaluation_part_has_no_score(
    config: DictConfig, tiny_checkpoint: Path
) -> None:
    class Unscored(SyntheticSource):
        def evaluation(self, skeleton: Any) -> None:
            return None

    assert build.evaluate_and_export(config, tiny_checkpoint, Unscored()).oks is None


def test_a_seed_fixes_the_first_weights(config: DictConfig) -> None:
    drawn: list[torch.Tensor] = []
    for seed in (3, 3, 4):
        config.seed = seed
        build.setup_libraries(config)
        drawn.append(build.build_network(config, ST_13).top.conv.weight)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_losses_get_the_skeletons_sigmas_where_they_take_them(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    skeleton, preprocessing, source = build.build_inputs(config)
    network = MoveNet(13, 0.35)
    module = build.build_module(config, network, skeleton, preprocessing, source)
    assert isinstance(module.loss, SpatialCrossEntropy)
    torch.testing.assert_close(module.loss.sigmas, torch.tensor(ST_13.sigmas))
    config = composed(
        monkeypatch, "train", "experiment=quickstart", "loss=gaussian_mse", "loss.sigma=1.5"
    )
    module = build.build_module(config, network, skeleton, preprocessing, source)
    assert isinstance(module.loss, GaussianMSE) and module.loss.sigma == 1.5


def test_the_trainer_has_the_configured_callbacks(config: DictConfig, tmp_path: Path) -> None:
    trainer: Any = build.build_trainer(config, tmp_path)
    kinds = [type(callback).__name__ for callback in trainer.callbacks]
    assert (
        kinds.count("ModelCheckpoint") == 2
        and "AveragedWeights" in kinds
        and "EarlyStopping" in kinds
    )
    assert any(isinstance(callback, PredictionGrid) for callback in trainer.callbacks)
    assert "Progress" not in kinds  # null in this configuration
    folders = {
        c.dirpath
        for c in trainer.checkpoint_callbacks
        if isinstance(c, lightning.pytorch.callbacks.ModelCheckpoint)
    }
    assert folders == {str(tmp_path / "checkpoints")}


def test_the_best_and_the_last_checkpoint_are_callbacks_of_their_own(config: DictConfig) -> None:
    """One with `save_last` would write last.ckpt only when the best one changes, and after it.

    It holds the best one's state.
    """
    names = [
        name
        for name, entry in config.callbacks.items()
        if entry and entry._target_.endswith("ModelCheckpoint")
    ]
    assert [config.callbacks[name].filename for name in names] == ["best", "last"]
    assert not any(config.callbacks[name].get("save_last") for name in names)
    assert config.callbacks[names[1]].get("monitor") is None


def test_an_export_takes_the_data_that_the_checkpoint_names(
    tiny_checkpoint: Path, synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(monkeypatch, "export", f"checkpoint={tiny_checkpoint}")
    source = build.source_for(config)
    assert source == SyntheticSource(str(synthetic_root.parent), 40, 12)
    config = composed(
        monkeypatch, "export", f"checkpoint={tiny_checkpoint}", f"data.root={synthetic_root}"
    )
    source = build.source_for(config)
    assert isinstance(source, CocoSource) and source.root == str(synthetic_root)
    unknown = tmp_path / "unknown.ckpt"
    save_checkpoint(unknown, MoveNet(13, 0.35), ST_13, Preprocessing(64))
    config = composed(monkeypatch, "export", f"checkpoint={unknown}")
    with pytest.raises(
        HeatposeError, match=r"does not name its training data; set data\.root=FOLDER"
    ):
        build.source_for(config)


@pytest.mark.parametrize("wanted", ["null", "transposed"])
def test_an_export_can_change_the_upsampling(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    pytest.importorskip("onnx", reason="the export extra is not installed")
    overrides = [
        f"checkpoint={tiny_checkpoint}",
        "name=changed",
        f"exports={tmp_path}",
        "evaluate=false",
        "quant.artefacts=[]",
        f"quant.upsample={wanted}",
    ]
    overrides += ["quant.upsampling_tuning.steps=2", "quant.upsampling_tuning.images=8"]
    config = composed(monkeypatch, "export", *overrides)
    build.evaluate_and_export(config, tiny_checkpoint, build.source_for(config))
    manifest = json.loads((tmp_path / "changed/manifest.json").read_text(encoding="utf-8"))
    operators = inspect_onnx(next((tmp_path / "changed").glob("*.onnx"))).operators
    changed = wanted == "transposed"
    assert manifest["network"]["upsample"] == ("transposed" if changed else "bilinear")
    assert manifest["provenance"].get("upsampling", {}).get("trained") == (
        "bilinear" if changed else None
    )
    assert (operators.get("ConvTranspose", 0), operators.get("Resize", 0)) == (
        (3, 0) if changed else (0, 3)
    )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["quant.calibration_images=0"], "must be >= 1"),
        (["quant.calibration_images=many"], "must be >= 1"),
        (["quant.artefacts=[int4]"], "int4"),
        (["quant.output=int4"], "int4"),
        (
            ["quant.upsample=cubic"],
            "quant.upsample=cubic is unknown; choose one of bilinear, nearest, transposed",
        ),
        (["name=a/b"], "'a/b' is not a valid name"),
        (["model_name=a/b"], "'a/b' is not a valid model name"),
    ],
)
def test_what_an_export_would_refuse_is_refused_before_the_training(
    overrides: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = composed(
        monkeypatch, "train", "experiment=quickstart", f"exports={tmp_path}", *overrides
    )
    with pytest.raises((HeatposeError, InstantiationException)) as refused:
        build.check(config)
    cause = refused.value if isinstance(refused.value, HeatposeError) else refused.value.__cause__
    assert isinstance(cause, HeatposeError) and sentence in str(cause)


def test_a_place_that_is_taken_is_refused_before_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "quickstart").mkdir()
    config = composed(monkeypatch, "train", "experiment=quickstart", f"exports={tmp_path}")
    with pytest.raises(HeatposeError, match="is not a bundle"):
        build.check(config)
    config.export = False
    build.check(config)


def test_absent_export_tools_are_missed_before_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = composed(monkeypatch, "train", "experiment=quickstart", f"exports={tmp_path}")
    with pytest.raises(HeatposeError, match=r"onnx2tf and tensorflow.*heatpose\[export\]"):
        build.check(config)
    config.export = False  # training alone needs none of them
    build.check(config)


def test_plain_values_are_plain(config: DictConfig) -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None)), value
        for entry in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        ):
            check(entry)

    values = build.plain(config)
    check(values)
    assert values["preprocessing"]["size"] == 64  # interpolations are resolved
    assert not set(build.run_identity(config)) & set(build.NOT_THE_RUN)


def test_remarks_that_no_user_can_act_on_are_quiet(config: DictConfig) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build.setup_libraries(config)
        warnings.warn(
            "The 'train_dataloader' does not have many workers which may be a bottleneck.",
            stacklevel=1,
        )
        warnings.warn("something else", stacklevel=1)
    assert [str(entry.message) for entry in caught] == ["something else"]


def test_an_export_can_change_the_resolution(
    tiny_checkpoint: Path, tmp_path: Path, heatpose: Heatpose, hydra_as_before: None
) -> None:
    pytest.importorskip("onnx", reason="the export extra is not installed")
    ran = heatpose(
        "export",
        f"checkpoint={tiny_checkpoint}",
        "name=larger",
        "resolution=96",
        f"exports={tmp_path}",
        "evaluate=false",
        "quant.artefacts=[]",
        "quant.calibration_images=8",
    )
    assert ran.status == 0, ran.err
    bundle = tmp_path / "larger"
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    found = inspect_onnx(next(bundle.glob("*_96.onnx")))
    assert manifest["resolution"] == 96 and manifest["provenance"]["trained_at"] == 64
    assert tuple(found.inputs[0].shape)[-2:] == (96, 96)


@pytest.mark.parametrize("change", ["model.width=0.5", "skeleton=coco17", "init=scratch"])
def test_an_export_refuses_what_the_checkpoint_fixes(
    tiny_checkpoint: Path, heatpose: Heatpose, hydra_as_before: None, change: str
) -> None:
    """It would have no effect."""
    ran = heatpose("export", f"checkpoint={tiny_checkpoint}", change)
    assert ran.status == 1 and ran.err.count("\n") == 1, ran.err
    assert f"{change.partition('=')[0]} is fixed by the checkpoint" in ran.err
