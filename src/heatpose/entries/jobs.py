"""The two jobs: `train` (train, score, export) and `export` (a checkpoint or imported weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from heatpose.entries import run
from heatpose.sweeps.hydra_callback import run_entry, run_folder, train_shared
from heatpose.training.result import RunResult
from heatpose.utils.process import is_first_process

if TYPE_CHECKING:
    from pathlib import Path

    from heatpose.data.sources import Source


def train_main() -> None:
    """Composes the configuration from the command line and runs the configured steps."""
    run(train_entry, "train")


def train_entry(config: DictConfig) -> float | tuple[float, ...] | None:
    """Hydra task: runs the configured steps; returns the configured objectives, for sweeps."""
    return run_entry(train, config)


def train(config: DictConfig) -> RunResult | None:
    """Trains, scores and exports as configured."""
    # Imported here: composing the configuration must not import torch and Lightning.
    from heatpose.entries import build

    build.check_settings(config)
    build.setup_libraries(config)
    build.check(config)
    trained = train_shared(config, fit_model) if config.shared_weights else fit_model(config)
    return build.evaluate_and_export(config, *trained) if trained and is_first_process() else None


def fit_model(config: DictConfig) -> tuple[Path, Source] | None:
    """Trains; returns the best checkpoint and the data, or None after a learning rate search."""
    from heatpose.entries import build
    from heatpose.training import fit as training
    from heatpose.training import lr_finder as rate_finder

    folder = run_folder(config)
    trains = config.fit or config.lr_find
    # First, because it rejects invalid trainer settings before anything slow begins.
    trainer = build.build_trainer(config, folder) if trains else None
    skeleton, preprocessing, source = build.build_inputs(config)
    if is_first_process():  # other processes use the prepared data
        source.prepare()
    data = build.build_data(config, source, skeleton, preprocessing)
    if trains:  # unusable labels are refused before weights are downloaded
        data.read_labels()
    module = build.build_module(
        config, build.build_network(config, skeleton), skeleton, preprocessing, source
    )
    if is_first_process():
        build.check_budget(config, module.network, preprocessing)
    if trainer is not None and config.lr_find:
        rate_finder.find_rate(module, data, trainer, folder)
        return None
    with training.only_this_process(folder):
        last = training.open_run(folder, build.run_identity(config), config.resume)
        if trainer is None:
            return training.initial_checkpoint(module, folder), source
        module.distillation = build.build_distillation(config, data, skeleton)
        return training.fit(module, data, trainer, last), source


def export_main() -> None:
    """Composes the configuration from the command line and exports."""
    run(export_entry, "export")


def export_entry(config: DictConfig) -> float | tuple[float, ...] | None:
    """Hydra task: writes exports/<name>; returns the configured objectives, for sweeps."""
    return run_entry(export, config)


def export(config: DictConfig) -> RunResult | None:
    """Exports `config.checkpoint`, or the initial weights if it is not set."""
    # Imported here: composing the configuration must not import torch.
    from heatpose.bundles.released import resolve
    from heatpose.entries import build
    from heatpose.training import fit as training

    build.check_settings(config)
    build.setup_libraries(config)
    build.check(config)
    if config.checkpoint:
        checkpoint = resolve(config.checkpoint, "checkpoint")
        return build.evaluate_and_export(config, checkpoint, build.source_for(config))
    skeleton, preprocessing, source = build.build_inputs(config)
    source.prepare()
    module = build.build_module(
        config, build.build_network(config, skeleton), skeleton, preprocessing, source
    )
    return build.evaluate_and_export(
        config, training.initial_checkpoint(module, run_folder(config)), source
    )
