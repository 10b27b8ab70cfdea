"""Scores a checkpoint and exports it as a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from heatpose.data.sources import Source
from heatpose.evaluation.evaluate import evaluate, report_table
from heatpose.export.job import ExportJob
from heatpose.export.pipeline import export_bundle
from heatpose.export.result import BundleResult, print_table
from heatpose.models.checkpoint import WEIGHTS, LoadedCheckpoint, load_checkpoint, weights_hash
from heatpose.models.movenet import with_upsampling
from heatpose.pose.preprocessing import check_resolution
from heatpose.quantize.calibration import ExportData
from heatpose.quantize.settings import ExportConfig
from heatpose.runners.torch_runner import TorchRunner
from heatpose.training.result import BoardNumbers, RunResult
from heatpose.training.self_distillation import tune_upsampling
from heatpose.utils.progress import show

if TYPE_CHECKING:
    from heatpose.deploy.estimate import Estimate
    from heatpose.deploy.targets import Target


UNSCORED = (
    "Nothing is scored: the data has no evaluation images (data.eval_root=FOLDER); "
    "the checkpoint was chosen on held-out training images."
)


def load_for_export(path: Path, size: int | None) -> LoadedCheckpoint:
    """A checkpoint at another input side S, for which the network's weights are the same.

    Args:
        path: The checkpoint.
        size: S in pixels, a multiple of 32; None for its own.

    Raises:
        HeatposeError: No checkpoint, or a side that the network cannot have.
    """
    loaded = load_checkpoint(path)
    if size is None or size == loaded.preprocessing.size:
        return loaded
    check_resolution(size)
    trained = {"trained_at": loaded.preprocessing.size}
    return replace(
        loaded,
        preprocessing=replace(loaded.preprocessing, size=size),
        metadata={**loaded.metadata, **trained},
    )


def score(path: Path, source: Source, size: int | None = None) -> float | None:
    """Scores a checkpoint by the published protocol and prints the table.

    Args:
        path: The checkpoint.
        source: Gives the evaluation instances.
        size: Input side; None for the checkpoint's own.

    Returns:
        Mean OKS in percent; None if the source has no evaluation set.
    """
    loaded = load_for_export(path, size)
    instances = source.evaluation(loaded.skeleton)
    if instances is None:
        print(UNSCORED)
        return None
    report = evaluate(TorchRunner(path, loaded), instances, loaded.skeleton)
    show(report_table([report]))
    return report.oks


def export(
    path: Path,
    source: Source,
    folder: Path,
    config: ExportConfig,
    *,
    run_config: Mapping[str, Any],
    size: int | None = None,
    score: bool = True,
    command: str | None = None,
    target: Target | None = None,
) -> BundleResult:
    """Writes the bundle of a checkpoint and prints its table.

    Args:
        path: The checkpoint.
        source: Training instances for the calibration, evaluation instances for the score.
        folder: The bundle, exports/<name>.
        config: Files, quantisation and acceptance checks.
        run_config: Configuration of the run, plain values, for the manifest.
        size: Input side; None for the checkpoint's own.
        score: False does not score.
        command: The command line, for the manifest and the report.
        target: The board it is for; decides what `config` leaves open.

    Raises:
        HeatposeError: As `export_bundle`.
    """
    loaded = load_for_export(path, size)
    config = resolved(config, target, four_heads=loaded.network.four_heads)
    trained = str(loaded.network.settings["upsample"])
    changes = config.upsample not in (None, trained)
    evaluation = source.evaluation(loaded.skeleton)
    data = ExportData(
        source.training(loaded.skeleton),
        evaluation if score or changes else None,
        config.auto,
        scored=score,
    )
    console = Console()
    if score and evaluation is None:
        console.print(UNSCORED)
    provenance = {"checkpoint": path.name, "command": command, **loaded.metadata}
    model = loaded
    if changes:
        model = _with_upsampling(loaded, config, data, console)
        tuning = config.upsampling_tuning and asdict(config.upsampling_tuning)
        provenance["upsampling"] = {"trained": trained, "settling": tuning}
    job = ExportJob(
        model=model,
        data=data,
        config=config,
        folder=folder,
        model_name=str(loaded.metadata.get("model") or folder.name),
        run_config=run_config,
        provenance={**provenance, WEIGHTS: weights_hash(loaded.network)},
    )
    result = export_bundle(job, console)
    print_table(result, console)
    if (report := result.folder / "report.html").is_file():
        console.print(f"The report is in '{report}'.", highlight=False, soft_wrap=True)
    return result


def resolved(
    config: ExportConfig, target: Target | None, *, four_heads: bool = False
) -> ExportConfig:
    """The configuration with the output type and the sigmoid that the target takes, where open.

    Decoded poses (four heads) are float32 for every target.
    """
    if target is None:
        return config
    output = "float32" if four_heads else target.export.output
    sigmoid = target.export.sigmoid if config.sigmoid is None else config.sigmoid
    return replace(config, output=config.output or output, sigmoid=sigmoid)


def _with_upsampling(
    loaded: LoadedCheckpoint, config: ExportConfig, data: ExportData, console: Console
) -> LoadedCheckpoint:
    """The model with the upsampling to export, fine-tuned by self-distillation.

    Neither evaluation nor hold-out images take part.
    """
    assert config.upsample is not None  # the caller asks where it changes
    network, tuning = with_upsampling(loaded.network, config.upsample), config.upsampling_tuning
    if tuning is not None:
        # Imported here: few exports need it.
        from heatpose.data.batches import draw_augmented

        console.print(
            f"Upsampling becomes {config.upsample}: {tuning.steps} steps of self-distillation from"
            f" the network with {loaded.network.settings['upsample']}."
        )
        images = draw_augmented(
            data.fitting, tuning.images, loaded.skeleton, loaded.preprocessing, tuning.seed
        ).images
        tune_upsampling(network, loaded.network, images, loaded.preprocessing, tuning)
    return replace(loaded, network=network)


def result_of_bundle(bundle: BundleResult, boards: Sequence[Target]) -> RunResult:
    """Result of a run with an export; "failed" where a file failed an acceptance check.

    The bundle is kept, with the rejected files marked.
    """
    from heatpose.deploy.estimate import estimate
    from heatpose.tflite.reader import read_graph

    scores = {row.artefact: row.oks for row in bundle.rows}
    files = {
        row.artefact: bundle.folder / row.file
        for row in bundle.rows
        if row.file.endswith(".tflite")
    }
    numbers = {}
    for board in boards:
        path = files.get(board.artefact)
        if path is not None and path.is_file():
            numbers[board.name] = _numbers(
                board, estimate(read_graph(path), board), scores.get(board.artefact)
            )
    failed = list(
        dict.fromkeys(str(check["artefact"]) for check in bundle.checks if not check["passed"])
    )
    reason = (
        f"{', '.join(failed)} failed an acceptance check and must not be shipped; the bundle"
        f" '{bundle.folder}' keeps the rejected files and the reasons."
    )
    return RunResult(
        status="failed" if failed else "finished",
        reason=reason if failed else "",
        oks=bundle.rows[0].oks if bundle.rows else None,
        files={name: scores[name] for name in files},
        boards=numbers,
        bundle=str(bundle.folder),
        seconds=sum(bundle.seconds.values()),
    )


def result_of_checkpoint(path: Path, oks: float | None, boards: Sequence[Target]) -> RunResult:
    """Result of a run without an export; the estimates are those of the network."""
    from heatpose.deploy.estimate import network_estimate

    loaded = load_checkpoint(path)
    size = loaded.preprocessing.size
    return RunResult(
        oks=oks,
        boards={
            board.name: _numbers(board, network_estimate(loaded.network, size, board), None)
            for board in boards
        },
    )


def _numbers(board: Target, expected: Estimate, oks: float | None) -> BoardNumbers:
    ms, ram, flash = (
        None if part is None else part.value
        for part in (expected.ms, expected.ram_kib, expected.flash_kib)
    )
    return BoardNumbers(board.artefact, oks, ms, ram, flash, expected.extrapolates)
