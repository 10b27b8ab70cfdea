"""Objects out of the composed configuration.

Used by the two entries, train.py and export.py, and by nothing below them.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.nn import Parameter

import heatpose.sweeps.hydra_callback  # noqa: F401  (registers the resolver that the configuration uses)
from heatpose.data.datamodule import DataSettings, PoseData, local_batch_size
from heatpose.data.sources import Source, from_description
from heatpose.deploy.budget import tell_expected
from heatpose.deploy.folder import write_package
from heatpose.deploy.target_files import load_target
from heatpose.deploy.targets import Target
from heatpose.distill.loss import Distillation
from heatpose.distill.teacher import DistillSettings
from heatpose.entries.arguments import check_arguments, made_of
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.training.devices import device_type, refused_in_one_sentence, usable_precision
from heatpose.training.fit import WholeCheckpointIO, callbacks_of
from heatpose.training.module import Optimization, PoseModule
from heatpose.training.result import RunResult, plain
from heatpose.utils.configuration import conf_folder
from heatpose.utils.process import is_first_process, without_tensorflow

NOT_THE_RUN = (
    "run",
    "runs",
    "exports",
    "export",
    "evaluate",
    "resume",
    "quant",
    "target",
    "hydra",
    "logger",
    "fit",
    "lr_find",
    "checkpoint",
    "boards",
    "objectives",
    "shared_weights",
)
"""Entries that do not change what is learnt: a run may be continued with others."""

DEVICES = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "sync_batchnorm",
    "use_distributed_sampler",
)
"""Entries of `trainer` likewise.

A run goes on with another number of GPUs, because the batch is that of all of them.
"""


def check_settings(config: DictConfig) -> None:
    """Refuses settings whose names or types nothing takes, before one of them is used.

    Raises:
        HeatposeError: The sentence names the key.
    """
    types_of = OmegaConf.load(conf_folder() / "train.yaml")
    assert isinstance(types_of, DictConfig)
    check_arguments(config, types_of)


def quiet(config: DictConfig) -> None:
    """Seeds every generator and silences library warnings that a user cannot act on."""
    without_tensorflow()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "LeafSpec",
        "batch_transfer",
        "not have many workers",
        "Checkpoint directory",
        "number of training batches",
        "all_gather is deprecated",
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
    lightning.seed_everything(config.seed, workers=True, verbose=False)


def run_identity(config: DictConfig) -> dict[str, Any]:
    """What must be the same for a run to be continued."""
    identity = {key: value for key, value in plain(config).items() if key not in NOT_THE_RUN}
    return {
        **identity,
        "trainer": {key: value for key, value in identity["trainer"].items() if key not in DEVICES},
    }


def check(config: DictConfig) -> None:
    """Refuses, before anything slow begins, what an export would refuse after the training.

    Raises:
        HeatposeError: A name or a setting is unusable, or the export tools are not installed.
    """
    with made_of("optimizer"):
        instantiate(config.optimizer)([Parameter(torch.zeros(1))])
    if config.get("distill") is not None:
        instantiate(config.distill).check()
    quant = instantiate(config.quant)
    boards_of(config)
    RunResult().objectives(list(config.objectives))
    if config.export:
        # Imported here, as below: training alone needs nothing of it.
        from heatpose.export.pipeline import check_place, check_tools

        check_place(Path(config.exports), str(config.run), str(config.model_name))
        check_tools(quant.forms)


def build_inputs(config: DictConfig) -> tuple[Skeleton, Preprocessing, Source]:
    """Skeleton, preprocessing and data source."""
    return (
        instantiate(config.skeleton),
        instantiate(config.preprocessing),
        instantiate(config.data.source),
    )


def build_network(config: DictConfig, skeleton: Skeleton) -> MoveNet:
    """The network with its first weights."""
    network: MoveNet = instantiate(config.init)(instantiate(config.model)(len(skeleton)), skeleton)
    return network


def build_data(
    config: DictConfig, source: Source, skeleton: Skeleton, preprocessing: Preprocessing
) -> PoseData:
    """The loaders."""
    settings: DataSettings = instantiate(config.data.module)(seed=config.seed)
    return settings.datamodule(
        source,
        skeleton,
        preprocessing,
        instantiate(config.augment.geometric),
        instantiate(config.augment.get("occlusion")),
    )


def build_distillation(
    config: DictConfig, data: PoseData, skeleton: Skeleton
) -> Distillation | None:
    """What a teacher says about the training people, if the run has one.

    Made now unless it was before.

    Raises:
        HeatposeError: The teacher cannot be opened or does not know the skeleton's keypoints.
    """
    settings: DistillSettings = instantiate(config.distill)
    if settings.path is None:
        return None
    # Imported here: a run without a teacher opens no model file.
    from heatpose.distill.cache import teacher_maps

    data.setup()
    maps = teacher_maps(settings, data.train_instances, skeleton)
    agreed = maps.agreement(data.train_instances, skeleton)
    if is_first_process():
        print(
            f"Teacher {Path(settings.path).name} agrees with the labels of"
            f" {len(data.train_instances)} training people to {agreed:.1f} % OKS."
        )
    return Distillation(maps, settings, skeleton)


def build_module(
    config: DictConfig,
    network: MoveNet,
    skeleton: Skeleton,
    preprocessing: Preprocessing,
    source: Source,
) -> PoseModule:
    """The Lightning module."""
    loss = instantiate(config.loss)
    loss = (
        loss(sigmas=skeleton.sigmas) if "sigmas" in loss.func.__init__.__annotations__ else loss()
    )
    metadata = {
        "run": config.run,
        "model": config.model_name,
        "init": plain(config.init),
        "data": source.describe(),
    }
    if config.compile:
        # in place: names of weights and checkpoints stay as they are
        network.compile()
    return PoseModule(
        network,
        loss,
        skeleton,
        preprocessing,
        Optimization(instantiate(config.optimizer), instantiate(config.scheduler)),
        instantiate(config.augment.photometric),
        metadata,
    )


def build_trainer(config: DictConfig, folder: Path) -> lightning.Trainer:
    """Lightning's trainer with callbacks and logger, in a precision that the device has.

    Raises:
        HeatposeError: The device is absent, Lightning refuses the settings, or the batch cannot be
            shared out among the processes.
    """
    settings = config.trainer.copy()
    with open_dict(settings):
        settings.precision = usable_precision(settings.precision, settings.accelerator)
        if device_type(settings.accelerator) == "cpu":  # torch has that layer for GPUs alone
            settings.sync_batchnorm = False
    with refused_in_one_sentence():
        made = {str(name): instantiate(entry) for name, entry in config.callbacks.items()}
        trainer: lightning.Trainer = instantiate(settings, _convert_="all")(
            callbacks=list(callbacks_of(made, folder)),
            logger=instantiate(config.logger),
            default_root_dir=folder,
            plugins=[WholeCheckpointIO()],
        )
    local_batch_size(config.data.batch_size, trainer.world_size)  # before further processes start
    return trainer


def source_for(config: DictConfig) -> Source:
    """The data for the export of a checkpoint.

    What the command line names, else what the checkpoint was trained on.
    """
    if config.data.get("root"):
        source: Source = instantiate(config.data.source)
        return source
    description = load_checkpoint(config.checkpoint).metadata.get("data")
    if not isinstance(description, dict):
        raise HeatposeError(
            f"'{config.checkpoint}' does not say what data it was trained on; set data.root=FOLDER"
            " for the calibration images."
        )
    return from_description(description)


def finish(config: DictConfig, checkpoint: Path, source: Source) -> RunResult:
    """Scores and exports a checkpoint as configured.

    Returns:
        What came out: "failed" where an artefact failed a gate (its bundle is kept).

    Raises:
        HeatposeError: As `finish.export`.
    """
    # Imported here: training alone must run without the export packages.
    from heatpose.entries import evaluate_and_export as steps

    boards = boards_of(config)
    if config.export:
        bundle = steps.export(
            checkpoint,
            source,
            name=config.run,
            exports=Path(config.exports),
            quant=instantiate(config.quant),
            config=plain(config),
            score=config.evaluate,
            command=command_line(),
            target=target_of(config),
        )
        hand_over(config, bundle.folder)
        return steps.result_of_bundle(bundle, boards)
    return steps.result_of_checkpoint(
        checkpoint, steps.score(checkpoint, source) if config.evaluate else None, boards
    )


def command_line() -> str | None:
    """What makes this run or this member of a sweep again; None outside an entry."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return shlex.join(["uv", "run", f"{hydra.job.name}.py", *hydra.overrides.task])


def target_of(config: DictConfig) -> Target | None:
    """The board that the run is for, if it names one (conf/target)."""
    return None if config.get("target") is None else instantiate(config.target)


def boards_of(config: DictConfig) -> list[Target]:
    """The boards whose estimates belong to the run's result.

    Its own, then those of `boards`, without any that has no estimator.
    """
    own = target_of(config)
    named = [load_target(str(name)) for name in config.get("boards") or []]
    known = {
        target.name: target
        for target in reversed([*([own] if own else []), *named])
        if target.estimator is not None
    }
    return list(reversed(known.values()))


def check_budget(config: DictConfig, network: MoveNet, preprocessing: Preprocessing) -> None:
    """Prints what the network is expected to take on the run's board.

    Nothing where the run names none.

    Raises:
        HeatposeError: It cannot fit.
    """
    target = target_of(config)
    if target is not None and target.estimator is not None:
        tell_expected(network, preprocessing.size, target)


def hand_over(config: DictConfig, bundle: Path) -> None:
    """Writes the deployment package of a finished bundle for the run's board.

    A rejected artefact is left to the gates' own sentence.
    """
    target = target_of(config)
    if target is not None and not list(bundle.glob(f"*_{target.artefact}.rejected.tflite")):
        print(f"{write_package(bundle, target).folder} is ready for {target.board}.")
