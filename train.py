"""Train a network, score it, export it: `uv run train.py experiment=quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from heatpose.record import RunResult, is_first_process
from heatpose.sweep import run_entry, run_folder

if TYPE_CHECKING:
    from heatpose.data.sources import Source


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs the configured steps; returns the configured objectives, for sweeps."""
    return run_entry(train, config)


def train(config: DictConfig) -> RunResult | None:
    """Fit, score, export."""
    # Imported here: composing the configuration and its errors need none of the seconds that torch and Lightning take.
    from heatpose import build, shared

    build.quiet(config)
    build.check(config)
    checkpoint, source = shared.trained(config, learn) if config.shared_weights else learn(config)
    return build.finish(config, checkpoint, source) if is_first_process() else None


def learn(config: DictConfig) -> tuple[Path, Source]:
    """Fit; the best checkpoint and the data."""
    from heatpose import build, training

    skeleton, preprocessing, source = build.build_inputs(config)
    if is_first_process():  # the others find the data there
        source.prepare()
    module = build.build_module(config, build.build_network(config, skeleton), skeleton, preprocessing, source)
    if is_first_process():
        build.check_budget(config, module.network, preprocessing)
    data = build.build_data(config, source, skeleton, preprocessing)
    folder = run_folder(config)
    last = training.open_run(folder, build.run_identity(config), config.resume)
    if config.fit:
        module.distillation = build.build_distillation(config, data, skeleton)
        return training.fit(module, data, build.build_trainer(config, folder), last), source
    return training.initial_checkpoint(module, folder), source


if __name__ == "__main__":
    main()
