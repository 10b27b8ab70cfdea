"""Builds objects from the composed configuration; used only by the entry points."""

from __future__ import annotations

import inspect
import logging
import shlex
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.nn import Parameter

import heatpose.sweeps.hydra_callback  # noqa: F401  (registers the resolver that the configuration uses)
from heatpose.bundles.released import resolve
from heatpose.data.datamodule import DataSettings, PoseData, local_batch_size
from heatpose.data.sources import Source, from_description
from heatpose.deploy.estimate import print_estimate
from heatpose.deploy.package import write_package
from heatpose.deploy.targets import Target, load_target
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
from heatpose.utils.files import conf_folder
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
    "half_checkpoints",
)
"""Entries that do not affect training: a run may be resumed with other values."""

DEVICES = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "sync_batchnorm",
    "use_distributed_sampler",
)
"""Entries of `trainer` that do not affect training: `batch_size` is the total over all GPUs."""


def check_settings(config: DictConfig) -> None:
    """Checks names and types of all settings.

    Raises:
        HeatposeError: A setting is unknown or of the wrong type.
    """
    types_of = OmegaConf.load(conf_folder() / "train.yaml")
    assert isinstance(types_of, DictConfig)
    check_arguments(config, types_of)


def setup_libraries(config: DictConfig) -> None:
    """Seeds all random generators and silences library warnings without a remedy."""
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
    """Settings that must be equal for a run to be resumed."""
    identity = {key: value for key, value in plain(config).items() if key not in NOT_THE_RUN}
    return {
        **identity,
        "trainer": {key: value for key, value in identity["trainer"].items() if key not in DEVICES},
    }


def check(config: DictConfig) -> None:
    """Checks before training what scoring and export need after it.

    Raises:
        HeatposeError: A name or setting is invalid, or the export tools are not installed.
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
        from heatpose.export.job import check_place, check_tools

        check_place(Path(config.exports), str(config.run), str(config.model_name))
        check_tools(quant.artefacts)


def build_inputs(config: DictConfig) -> tuple[Skeleton, Preprocessing, Source]:
    """Skeleton, preprocessing and data source."""
    return (
        instantiate(config.skeleton),
        instantiate(config.preprocessing),
        instantiate(config.data.source),
    )


def build_network(config: DictConfig, skeleton: Skeleton) -> MoveNet:
    """The network with its initial weights."""
    network: MoveNet = instantiate(config.init)(instantiate(config.model)(len(skeleton)), skeleton)
    return network


def build_data(
    config: DictConfig, source: Source, skeleton: Skeleton, preprocessing: Preprocessing
) -> PoseData:
    """The Lightning data module."""
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
    """Distillation term with the teacher's outputs, computed now unless cached; None if disabled.

    Raises:
        HeatposeError: The teacher cannot be opened or lacks keypoints of the skeleton.
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
            f"OKS of teacher {Path(settings.path).name} on {len(data.train_instances)} training"
            f" instances: {agreed:.1f} %."
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
    takes_sigmas = "sigmas" in inspect.signature(loss).parameters
    loss = loss(sigmas=skeleton.sigmas) if takes_sigmas else loss()
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
    """Lightning's trainer with callbacks and logger, in a precision that the device supports.

    Raises:
        HeatposeError: The device is absent, Lightning rejects the settings, or the batch size is
            not divisible by the number of processes.
    """
    settings = config.trainer.copy()
    with open_dict(settings):
        settings.precision = usable_precision(settings.precision, settings.accelerator)
        if device_type(settings.accelerator) == "cpu":  # only available on GPUs
            settings.sync_batchnorm = False
    with refused_in_one_sentence():
        made = {str(name): instantiate(entry) for name, entry in config.callbacks.items()}
        trainer: lightning.Trainer = instantiate(settings, _convert_="all")(
            callbacks=list(callbacks_of(made, folder)),
            logger=instantiate(config.logger),
            default_root_dir=folder,
            plugins=[WholeCheckpointIO(half=config.half_checkpoints)],
        )
    local_batch_size(config.data.batch_size, trainer.world_size)  # before further processes start
    return trainer


def source_for(config: DictConfig) -> Source:
    """Data source for the export of a checkpoint: `data.root`, else that of its training."""
    if config.data.get("root"):
        source: Source = instantiate(config.data.source)
        return source
    checkpoint = resolve(config.checkpoint, "checkpoint")
    description = load_checkpoint(checkpoint).metadata.get("data")
    if not isinstance(description, dict):
        raise HeatposeError(
            f"'{config.checkpoint}' does not name its training data; set data.root=FOLDER for the"
            " calibration images."
        )
    return from_description(description)


def evaluate_and_export(config: DictConfig, checkpoint: Path, source: Source) -> RunResult:
    """Scores and exports a checkpoint as configured.

    Returns:
        Result; status "failed" if an artefact failed an acceptance check (the bundle is kept).

    Raises:
        HeatposeError: As `evaluate_and_export.export`.
    """
    # Imported here: training alone must run without the export packages.
    from heatpose.entries import evaluate_and_export as steps

    boards = boards_of(config)
    if config.export:
        bundle = steps.export(
            checkpoint,
            source,
            Path(config.exports) / config.run,
            instantiate(config.quant),
            run_config=plain(config),
            size=export_size(config),
            score=config.evaluate,
            command=command_line(),
            target=target_of(config),
        )
        deploy_bundle(config, bundle.folder)
        return steps.result_of_bundle(bundle, boards)
    return steps.result_of_checkpoint(
        checkpoint,
        steps.score(checkpoint, source, export_size(config)) if config.evaluate else None,
        boards,
    )


FIXED_BY_CHECKPOINT = ("skeleton", "model", "init", "preprocessing")
"""Settings that a checkpoint brings with it; beside `checkpoint` they would have no effect."""


def export_size(config: DictConfig) -> int | None:
    """Input side to export `config.checkpoint` at; None for that of the checkpoint.

    The weights do not depend on it. Only a side on the command line counts: the default of
    `resolution` is that of trainings.

    Raises:
        HeatposeError: The command line changes what the checkpoint fixes.
    """
    if not config.get("checkpoint") or not HydraConfig.initialized():
        return None
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    keys = [override.key_or_group for override in overrides]
    for key in keys:
        if key.partition(".")[0] in FIXED_BY_CHECKPOINT:
            raise HeatposeError(
                f"{key} is fixed by the checkpoint '{config.checkpoint}' and cannot be changed in"
                " an export; leave it out, or train with init=checkpoint."
            )
    return int(config.resolution) if "resolution" in keys else None


def command_line() -> str | None:
    """Command that repeats this run; None outside an entry point."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return shlex.join(["uv", "run", f"{hydra.job.name}.py", *hydra.overrides.task])


def target_of(config: DictConfig) -> Target | None:
    """Target of the run (conf/target), if any."""
    return None if config.get("target") is None else instantiate(config.target)


def boards_of(config: DictConfig) -> list[Target]:
    """Targets whose estimates are part of the run's result: `target`, then `boards`.

    Targets without an estimator are left out.
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
    """Prints the estimate of the network on the run's target, if any.

    Raises:
        HeatposeError: The network exceeds the target's budget.
    """
    target = target_of(config)
    if target is not None and target.estimator is not None:
        print_estimate(network, preprocessing.size, target)


def deploy_bundle(config: DictConfig, bundle: Path) -> None:
    """Writes the deployment package of a bundle for the run's target, unless it was rejected."""
    target = target_of(config)
    if target is not None and not list(bundle.glob(f"*_{target.artefact}.rejected.tflite")):
        print(f"{write_package(bundle, target).folder} is ready for {target.board}.")
