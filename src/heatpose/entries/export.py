"""Export a checkpoint, or imported weights, as a proven bundle."""

from __future__ import annotations

from omegaconf import DictConfig

from heatpose.entries import run
from heatpose.sweeps.hydra_callback import run_entry, run_folder
from heatpose.training.result import RunResult


def main() -> None:
    """Composes the configuration from the command line and exports."""
    run(entry, "export")


def entry(config: DictConfig) -> float | tuple[float, ...] | None:
    """Writes exports/<name>; returns the configured objectives, for sweeps."""
    return run_entry(export, config)


def export(config: DictConfig) -> RunResult | None:
    """Without a checkpoint, the experiment's initial weights are exported."""
    # Imported here: composing the configuration and its errors need none of the seconds that torch
    # takes.
    from heatpose.bundles.released import resolve
    from heatpose.entries import build
    from heatpose.training import fit as training

    build.check_settings(config)
    build.quiet(config)
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
