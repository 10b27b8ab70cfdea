"""Train a network, score it, export it."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from heatpose.entries import conf_folder
from heatpose.sweep import run_entry, run_folder


def main() -> None:
    """Composes the configuration from the command line and runs the configured steps."""
    hydra.main(config_path=str(conf_folder()), config_name="train", version_base="1.3")(entry)()


def entry(config: DictConfig) -> float | None:
    """Runs the configured steps; returns the float network's OKS in percent, for sweeps."""
    return run_entry(train, config)


def train(config: DictConfig) -> float | None:
    """Fit, score, export."""
    # Imported here: composing the configuration and its errors need none of the seconds that torch and Lightning take.
    from heatpose import build, rate_finder, training

    build.quiet(config)
    build.check(config)
    skeleton, preprocessing, source = build.build_inputs(config)
    source.prepare()
    module = build.build_module(config, build.build_network(config, skeleton), skeleton, preprocessing, source)
    build.check_budget(config, module.network, preprocessing)
    data = build.build_data(config, source, skeleton, preprocessing)
    folder = run_folder(config)
    if config.lr_find:
        rate_finder.find_rate(module, data, build.build_trainer(config, folder), folder)
        return None
    with training.only_this_process(folder):
        last = training.open_run(folder, build.run_identity(config), config.resume)
        if config.fit:
            module.distillation = build.build_distillation(config, data, skeleton)
            checkpoint = training.fit(module, data, build.build_trainer(config, folder), last)
        else:
            checkpoint = training.initial_checkpoint(module, folder)
    return build.finish(config, checkpoint, source)
