"""Train a network, score it, export it: `uv run train.py experiment=quickstart`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from heatpose.record import RunResult, is_first_process
from heatpose.sweep import run_entry, run_folder


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs the configured steps; returns the configured objectives, for sweeps."""
    return run_entry(train, config)


def train(config: DictConfig) -> RunResult | None:
    """Fit, score, export."""
    # Imported here: composing the configuration and its errors need none of the seconds that torch and Lightning take.
    from heatpose import build, training

    build.quiet(config)
    build.check(config)
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
        checkpoint = training.fit(module, data, build.build_trainer(config, folder), last)
    else:
        checkpoint = training.initial_checkpoint(module, folder)
    return build.finish(config, checkpoint, source) if is_first_process() else None


if __name__ == "__main__":
    main()
