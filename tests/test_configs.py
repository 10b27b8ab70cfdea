"""Every file below conf/ composes, and gives the objects that the entries build."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import lightning
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from heatpose.entries import build
from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.quantize.settings import CheckLimits, ExportConfig
from heatpose.training.module import PoseModule

CONF = Path(__file__).parents[1] / "conf"
LADDER_CONF = Path(__file__).parents[1] / "benchmarks" / "conf"
SEARCHED = f"hydra.searchpath=[file://{LADDER_CONF}]"
"""What `--config-dir benchmarks/conf` adds."""
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
COMMAND = re.compile(r"# uv run (?P<entry>train|export)\.py (?P<overrides>.+)")

Compose = Callable[..., DictConfig]


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Composes as the entries do; what a run would write goes to a temporary folder."""
    config_holder = HydraConfig.instance()
    monkeypatch.setattr(config_holder, "cfg", None)

    def composed(entry: str, *overrides: str) -> DictConfig:
        folders = [f"runs={tmp_path}/runs", f"exports={tmp_path}/exports"]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose(entry, [*overrides, *folders], return_hydra_config=True)
        config_holder.set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    return composed


def _group(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _network(config: DictConfig, skeleton: Skeleton) -> MoveNet | None:
    """The network with its first weights.

    None where they come from a file that the config does not name.
    """
    try:
        return build.build_network(config, skeleton)
    except HeatposeError as error:
        assert "init.path=" in str(error)  # says what to set
        return None


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_composes(compose: Compose, file: Path) -> None:
    group, choice = str(file.parent), file.stem
    config = compose(
        "train", *(["experiment=quickstart"] if group == "debug" else []), f"{group}={choice}"
    )
    assert HydraConfig.get().runtime.choices[group] == choice
    plain = build.plain(config)  # every interpolation resolves
    build.check_settings(config)
    # they name files
    assert re.fullmatch(r"[\w-]+", plain["model_name"]) and re.fullmatch(r"[\w-]+", plain["name"])
    if group not in ("experiment", "debug", "recipe", "sweep"):
        assert plain["model_name"] == HydraConfig.get().runtime.choices["model"]
        own = OmegaConf.load(CONF / file)
        own.pop("defaults", None)
        assert set(own) <= set(
            OmegaConf.select(
                OmegaConf.create({"hydra": HydraConfig.get(), **config}), group.replace("/", ".")
            )
        )


@pytest.mark.parametrize(
    ("choice", "plugin"), [("parallel", "Joblib"), ("local_jobs", "Local"), ("slurm", "Slurm")]
)
def test_a_launcher_is_the_plugins(compose: Compose, choice: str, plugin: str) -> None:
    compose(
        "train",
        f"hydra/launcher={choice}",
        "trainer=ddp",
        "trainer.devices=4",
        "trainer.num_nodes=2",
    )
    launcher = OmegaConf.to_container(HydraConfig.get().launcher, resolve=False)
    assert isinstance(launcher, dict) and launcher["_target_"].endswith(f".{plugin}Launcher")
    assert (
        Plugins.instance().class_name_to_class[launcher["_target_"]].__name__ == f"{plugin}Launcher"
    )
    if choice == "slurm":  # a task for each GPU, which is what Lightning expects
        whole = OmegaConf.create({"trainer": {"devices": 4, "num_nodes": 2}, "launcher": launcher})
        assert (
            whole.launcher.nodes,
            whole.launcher.tasks_per_node,
            whole.launcher.gpus_per_node,
        ) == (2, 4, 4)


def test_searches_ask_for_as_many_numbers_as_they_have_directions(compose: Compose) -> None:
    for name in _group("sweep"):
        config = compose("train", f"sweep={name}")
        sweeper = HydraConfig.get().sweeper
        assert Plugins.instance().class_name_to_class[sweeper._target_]
        assert len(config.objectives) == len(sweeper.get("directions", [""]))


@pytest.mark.parametrize("name", ["csv", "mlflow", "tensorboard", "wandb"])
def test_curves_stay_on_this_machine(compose: Compose, name: str) -> None:
    settings = build.plain(compose("train", f"logger={name}"))["logger"]
    assert settings.get("offline", True) is True
    assert all("://" not in str(value) for value in settings.values())
    silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
    assert HydraConfig.get().job.env_set == {**silent, "MLFLOW_ALLOW_FILE_STORE": "true"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_command_in_an_experiments_header_runs_it(compose: Compose, path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    command = COMMAND.fullmatch(header[1])
    assert command, f"{path.name} does not say how it is run"
    overrides = shlex.split(command["overrides"])
    # and a sentence on what it is
    assert f"experiment={path.stem}" in overrides and len(header) > 2
    config = compose(command["entry"], *overrides)
    assert config.fit == (command["entry"] == "train")
    written = OmegaConf.load(path)
    assert isinstance(written, DictConfig)
    sized = "${resolution}" in str(OmegaConf.to_container(written, resolve=False))
    assert config.name == config.run == path.stem + (f"_{config.resolution}" if sized else "")
    build.plain(config)  # every interpolation resolves


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_builds(compose: Compose, path: Path, tmp_path: Path) -> None:
    config = compose("train", f"experiment={path.stem}", "data.workers=0")
    skeleton, preprocessing, source = build.build_inputs(config)
    assert preprocessing.size == config.resolution
    network = _network(config, skeleton) or instantiate(config.model)(len(skeleton))
    assert network.keypoints == len(skeleton)
    module = build.build_module(config, network, skeleton, preprocessing, source)
    trainer = build.build_trainer(config, tmp_path)
    assert isinstance(module, PoseModule) and trainer.max_epochs == config.trainer.max_epochs
    assert module.metadata["model"] == config.model_name and module.metadata["data"]["kind"] in (
        "coco",
        "synthetic",
    )
    assert isinstance(
        build.build_data(config, source, skeleton, preprocessing), lightning.LightningDataModule
    )
    assert isinstance(instantiate(config.quant), ExportConfig)
    heatmaps = _heatmaps(network, config.resolution)
    assert heatmaps.shape == (1, len(skeleton), config.resolution // 4, config.resolution // 4)


def _heatmaps(network: MoveNet, size: int) -> torch.Tensor:
    """Logits for a black image."""
    with torch.inference_mode():
        maps = network.eval()(torch.full((1, 3, size, size), -1.0))
    logits = getattr(maps, "heatmaps", maps)  # four heads give their maps under names
    assert isinstance(logits, torch.Tensor) and logits.isfinite().all()
    return logits


@pytest.mark.parametrize("keypoints", [13, 17])
@pytest.mark.parametrize("size", [192, 224, 256])
@pytest.mark.parametrize(("width", "suffix"), [(1.0, ""), (0.35, "_w035"), (1.4, "_w140")])
def test_names_have_keypoints_resolution_and_width(
    compose: Compose, keypoints: int, size: int, width: float, suffix: str
) -> None:
    recipe = ["recipe=scratch", f"model.width={width}"] if suffix else []
    experiment = f"experiment=st_movenet_{keypoints}kpt"
    config = compose("train", experiment, f"resolution={size}", *recipe)
    assert config.name == config.run == f"st_movenet_{keypoints}kpt_{size}{suffix}"
    assert config.model_name == f"st_movenet_lightning_heatmaps_{keypoints}kpt{suffix}"
    assert len(config.skeleton.keypoints) == keypoints and config.model.width == width
    assert HydraConfig.get().runtime.choices["recipe"] == ("scratch" if suffix else "finetune")


def test_the_configuration_is_small() -> None:
    assert len(list(CONF.rglob("*.yaml"))) <= 60


@pytest.mark.parametrize("model", _group("model"))
@pytest.mark.parametrize("skeleton", _group("skeleton"))
def test_models_take_their_keypoints_from_the_skeleton(
    compose: Compose, model: str, skeleton: str
) -> None:
    config = compose("train", f"model={model}", f"skeleton={skeleton}", "model.width=0.35")
    keypoints = len(instantiate(config.skeleton))
    network = build.build_network(config, instantiate(config.skeleton)).eval()
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, 64, 64))
    if network.settings["heads"] == "all":
        assert [map_.shape[1] for map_ in output] == [1, 2 * keypoints, keypoints, 2 * keypoints]
        output = output.heatmaps
    assert output.shape == (1, keypoints, 16, 16)
    assert network.settings["width"] == 0.35


@pytest.mark.parametrize("init", _group("init"))
def test_initial_weights(compose: Compose, init: str, tmp_path: Path) -> None:
    absent = f"init.path={tmp_path}/absent.file"
    overrides = [] if init == "scratch" else [absent]
    config = compose("train", f"init={init}", *overrides)
    skeleton = instantiate(config.skeleton)
    if init == "scratch":
        assert isinstance(build.build_network(config, skeleton), MoveNet)
    else:
        with pytest.raises(HeatposeError, match=r"absent\.file|ImageNet"):
            build.build_network(config, skeleton)


@pytest.mark.parametrize(
    "loss", [*_group("loss"), *(path.stem for path in (LADDER_CONF / "loss").glob("*.yaml"))]
)
def test_losses_take_a_batch(compose: Compose, loss: str) -> None:
    heads = "all" if loss == "four_heads" else "heatmap"
    config = compose(
        "train",
        "experiment=quickstart",
        f"loss={loss}",
        SEARCHED,
        "model.width=0.35",
        f"+model.heads={heads}",
    )
    skeleton, preprocessing, source = build.build_inputs(config)
    module = build.build_module(
        config, build.build_network(config, skeleton), skeleton, preprocessing, source
    )
    points, labelled = torch.rand(2, 13, 2) * 64, torch.ones(2, 13, dtype=torch.bool)
    value = module.loss(
        module.network(torch.zeros(2, 3, 64, 64)), points, labelled, torch.full((2, 2), 40.0)
    )
    assert value.isfinite() and value > 0
    value.backward()


@pytest.mark.parametrize(
    "group",
    [
        "optimizer",
        "scheduler",
        "augment",
        "callbacks",
        "logger",
        "trainer",
        "data",
        "quant",
        "distill",
    ],
)
def test_the_other_groups_give_objects(
    compose: Compose, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose("train")
    for name, value in HydraConfig.get().job.env_set.items():
        monkeypatch.setenv(name, str(value))  # as in a job
    for choice in _group(group):
        config = compose("train", f"{group}={choice}")
        built = instantiate(config[group])
        if group == "logger":
            assert isinstance(built, lightning.pytorch.loggers.Logger)
            # MLflow has the latter alone
            assert str(tmp_path) in str(built.log_dir or built.save_dir)
        elif group == "callbacks":
            assert all(isinstance(callback, lightning.Callback) for callback in built.values())
        elif group in ("optimizer", "scheduler", "trainer"):
            assert callable(built)


LADDER = ("a0", "a1", "b", "c", "d", "e", "f", "g")


def test_each_rung_of_the_ladder_adds_its_change_to_the_previous(compose: Compose) -> None:
    rungs = [build.plain(compose("train", f"recipe=ladder_{rung}", SEARCHED)) for rung in LADDER]
    changed = [
        {key for key in after if after[key] != before[key]}
        for before, after in zip(rungs[:-1], rungs[1:], strict=True)
    ]
    assert changed == [
        {"loss", "augment"},
        {"loss"},
        {"augment"},
        {"scheduler", "callbacks"},
        {"augment", "data"},
        {"loss"},
        {"distill"},
    ]
    kinds = [rung["loss"]["_target_"].rpartition(".")[2] for rung in rungs]
    assert kinds == ["OneHotMSE", "OneHotCrossEntropy", *["SpatialCrossEntropy"] * 6]
    assert [rung["data"]["module"]["select"] for rung in rungs] == ["prominent"] * 5 + ["all"] * 3
    assert [rung["callbacks"]["ema"] is not None for rung in rungs] == [False] * 4 + [True] * 4
    default = build.plain(compose("train"))
    assert (rungs[-2]["augment"], rungs[-2]["loss"]) == (
        default["augment"],
        default["loss"],
    ) and rungs[-1]["distill"]["required"]


@pytest.mark.parametrize("rung", LADDER)
def test_a_rung_can_be_run_for_a_number_of_steps(
    compose: Compose, rung: str, tmp_path: Path
) -> None:
    """As benchmarks/recipe_ladder.py does."""
    length = [
        "+trainer.max_steps=6",
        "trainer.max_epochs=-1",
        "+trainer.val_check_interval=3",
        "+trainer.check_val_every_n_epoch=null",
    ]
    trainer = build.build_trainer(
        compose("train", f"recipe=ladder_{rung}", SEARCHED, "trainer.accelerator=cpu", *length),
        tmp_path,
    )
    assert (trainer.max_steps, trainer.max_epochs) == (6, -1)


def test_the_optimizer_and_its_schedule_run(compose: Compose) -> None:
    config = compose("train")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = instantiate(config.optimizer)([{"params": [weight]}])
    schedule = instantiate(config.scheduler)(optimizer=optimizer, total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(config.optimizer.lr) and rates[0] < rates[1] > rates[-1] > 0


@pytest.mark.parametrize(("choice", "built_in"), [("coco17", COCO_17), ("st13", ST_13)])
def test_skeleton_files_are_the_built_in_ones(
    compose: Compose, choice: str, built_in: Skeleton
) -> None:
    assert Skeleton.from_yaml(CONF / "skeleton" / f"{choice}.yaml") == built_in
    assert instantiate(compose("train", f"skeleton={choice}").skeleton) == built_in


def test_no_skeleton_file_is_forgotten() -> None:
    assert _group("skeleton") == ["coco17", "st13"]


@pytest.mark.parametrize(
    ("choice", "artefacts"),
    [
        ("int8", ["float32", "int8_pc", "int8_pt"]),
        ("int8_pc", ["float32", "int8_pc"]),
        ("int8_pt", ["float32", "int8_pt"]),
        ("none", ["float32"]),
    ],
)
def test_quantisation_files_differ_in_their_artefacts_and_method(
    compose: Compose, choice: str, artefacts: list[str]
) -> None:
    quant = instantiate(compose("export", f"quant={choice}").quant)
    assert list(quant.artefacts) == artefacts
    assert quant.limits == CheckLimits() == ExportConfig().limits  # the documented defaults
    assert (quant.output, quant.sigmoid, quant.calibration_images, quant.calibration_seed) == (
        None,
        None,
        128,
        0,
    )


def test_thorough_is_auto_with_more_images_and_steps(compose: Compose) -> None:
    auto, thorough = (
        instantiate(compose("export", f"quant={name}").quant) for name in ("auto", "thorough")
    )
    assert thorough.auto == auto.auto and thorough.limits == auto.limits
    assert thorough.calibration_images > auto.calibration_images
    for artefact in ("int8_pc", "int8_pt"):
        assert thorough.qat[artefact].steps > auto.qat[artefact].steps
        assert thorough.qat[artefact].images > auto.qat[artefact].images


def test_every_limit_of_the_checks_is_in_the_configuration(compose: Compose) -> None:
    limits = set(compose("export").quant.limits) - {"_target_"}
    assert limits == {field.name for field in fields(CheckLimits)}


def test_a_bad_value_reaches_the_user_as_its_sentence(compose: Compose) -> None:
    config = compose("train", "resolution=100")
    with pytest.raises(InstantiationException) as wrapped:
        build.build_inputs(config)
    assert isinstance(wrapped.value.__cause__, HeatposeError)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("exports=elsewhere", True),
        ("logger=csv", True),
        ("quant=none", True),
        ("export=false", True),
        ("trainer.devices=2", True),
        ("boards=[stm32n6]", True),
        ("optimizer.lr=0.5", False),
        ("seed=1", False),
        ("resolution=224", False),
        ("skeleton=st13", False),
    ],
)
def test_what_makes_a_run_another_one(compose: Compose, override: str, same: bool) -> None:
    first: dict[str, Any] = build.run_identity(compose("train"))
    assert (build.run_identity(compose("train", override)) == first) == same
