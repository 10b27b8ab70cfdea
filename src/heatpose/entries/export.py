"""Entry point `export`: exports a checkpoint, or imported weights, as a validated bundle."""

from __future__ import annotations

from omegaconf import DictConfig

from heatpose.entries import run
from heatpose.sweeps.hydra_callback import run_entry, run_folder
from heatpose.training.result import RunResult


def main() -> None:
    """Composes the configuration from the command line and exports."""
    run(entry, "export")


def entry(config: DictConfig) -> float | tuple[float, ...] | None:
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
        return build.finish(config, checkpoint, build.source_for(config))
    skeleton, preprocessing, source = build.build_inputs(config)
    source.prepare()
    module = build.build_module(
        config, build.build_network(config, skeleton), skeleton, preprocessing, source
    )
    return build.finish(config, training.initial_checkpoint(module, run_folder(config)), source)
