"""Scores a checkpoint and exports it as a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from heatpose.data.sample import Person
from heatpose.data.sources import Source
from heatpose.errors import HeatposeError
from heatpose.evaluation.evaluate import evaluate, report_table
from heatpose.export.checks import CheckLimits
from heatpose.export.pipeline import FORMS, PTQ, BundleResult, export_bundle
from heatpose.export.result import print_table
from heatpose.models.checkpoint import LoadedCheckpoint, load_checkpoint
from heatpose.models.decode import PoseForm
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.upsample import Upsampling
from heatpose.quantize.settings import AutoChoice, PtqSettings, QatSettings
from heatpose.runners.torch_runner import TorchRunner
from heatpose.tflite.inspect import Artefact, Output
from heatpose.training.result import BoardNumbers, RunResult
from heatpose.training.self_distillation import UpsamplingTuning, tune_upsampling
from heatpose.utils.console import show

if TYPE_CHECKING:
    from heatpose.deploy.estimate import Estimate
    from heatpose.deploy.targets import Target


UNSCORED = (
    "Nothing is scored: the data has no evaluation images (data.eval_root=FOLDER); "
    "the checkpoint was chosen on held-out training images."
)


@dataclass(frozen=True)
class QuantSettings:
    """Export settings and limits of the acceptance checks (conf/quant).

    Attributes:
        forms: TFLite variants: "float32", "int8_pc" (per channel), "int8_pt" (per tensor).
        output: Output type of the int8 files, "float32" or "int8"; None for the target's.
        sigmoid: Whether the files output probabilities instead of logits; None for the target's.
        pose: Output of files of a network with four heads, which contain the decoding: "xy" for
            (1, K * 3) x, y, score; "yx" for Google's (1, 1, K, 3) y, x, score.
        upsample: Upsampling of the exported network ("bilinear", "nearest", "transposed"); None
            for that of the training.
        upsampling_tuning: Self-distillation after a change of upsampling; None to skip it.
        calibration_images: Number of training images for calibration.
        calibration_seed: Seed of their selection.
        ptq: int8 variant -> post-training quantisation settings.
        qat: int8 variant -> quantisation-aware training after PTQ; None or missing to skip it.
        auto: Automatic selection of the cheapest of min-max, PTQ and QAT that keeps the score; None
            applies all that is configured.
        limits: Limits of the acceptance checks.
    """

    forms: Sequence[Artefact] = ("float32", "int8_pc", "int8_pt")
    output: Output | None = None
    sigmoid: bool | None = None
    pose: PoseForm = "xy"
    upsample: Upsampling | None = None
    upsampling_tuning: UpsamplingTuning | None = None
    calibration_images: int = 128
    calibration_seed: int = 0
    ptq: Mapping[str, PtqSettings] = field(default_factory=lambda: dict(PTQ))
    qat: Mapping[str, QatSettings | None] = field(default_factory=dict)
    auto: AutoChoice | None = None
    limits: CheckLimits = field(default_factory=CheckLimits)

    def __post_init__(self) -> None:
        if not isinstance(self.calibration_images, int) or self.calibration_images < 1:
            raise HeatposeError(
                f"quant.calibration_images must be >= 1 (128 by default), got"
                f" {self.calibration_images}."
            )
        if unknown := [form for form in self.forms if form not in FORMS]:
            raise HeatposeError(
                f"quant.forms names {unknown}, which are unknown; choose among {', '.join(FORMS)}."
            )
        if self.output not in (None, *get_args(Output)):
            raise HeatposeError(
                f"quant.output={self.output} is unknown; choose one of"
                f" {', '.join(get_args(Output))}."
            )
        if self.pose not in get_args(PoseForm):
            raise HeatposeError(
                f"quant.pose={self.pose} is unknown; choose one of {', '.join(get_args(PoseForm))}."
            )
        if self.upsample not in (None, *get_args(Upsampling)):
            raise HeatposeError(
                f"quant.upsample={self.upsample} is unknown; choose one of"
                f" {', '.join(get_args(Upsampling))}, or null for the network's own."
            )


def score(path: Path, source: Source) -> float | None:
    """Scores a checkpoint by the published protocol and prints the table.

    Returns:
        Mean OKS in percent; None if the source has no evaluation set.
    """
    loaded = load_checkpoint(path)
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
    *,
    name: str,
    exports: Path,
    quant: QuantSettings,
    config: Mapping[str, Any],
    score: bool = True,
    command: str | None = None,
    target: Target | None = None,
) -> BundleResult:
    """Writes `exports/<name>` for a checkpoint and prints its table.

    Args:
        path: Checkpoint.
        source: Training instances for calibration, evaluation instances for scores.
        name: Name of the bundle.
        exports: Folder of the bundles.
        quant: Export settings.
        config: Configuration for the manifest, plain values.
        score: Whether to score on the evaluation set.
        command: Command line, for the manifest and the report.
        target: Board; provides defaults for `quant`.

    Raises:
        HeatposeError: As `export_bundle`.
    """
    loaded = load_checkpoint(path)
    training, evaluation = source.training(loaded.skeleton), source.evaluation(loaded.skeleton)
    output, sigmoid = endings(quant, target, loaded.network.four_heads)
    console = Console()
    if score and evaluation is None:
        console.print(UNSCORED)
    network = _upsampling(loaded, quant, training, evaluation or (), console)
    was = {
        "trained": loaded.network.settings["upsample"],
        "settling": quant.upsampling_tuning and asdict(quant.upsampling_tuning),
    }
    changed = {} if network is loaded.network else {"upsampling": was}
    result = export_bundle(
        network=network,
        skeleton=loaded.skeleton,
        preprocessing=loaded.preprocessing,
        name=name,
        model_name=_model_name(loaded, name),
        out=exports,
        calibration_instances=training,
        evaluation_instances=evaluation if score else None,
        config=config,
        provenance={"checkpoint": path.name, "command": command, **loaded.metadata, **changed},
        forms=tuple(quant.forms),
        output=output,
        sigmoid=sigmoid,
        limits=quant.limits,
        calibration_count=quant.calibration_images,
        seed=quant.calibration_seed,
        pose=quant.pose,
        ptq=quant.ptq,
        qat=quant.qat,
        auto=quant.auto,
        console=console,
    )
    print_table(result, console)
    return result


def _upsampling(
    loaded: LoadedCheckpoint,
    quant: QuantSettings,
    training: Sequence[Person],
    scored: Sequence[Person],
    console: Console,
) -> MoveNet:
    """The network with the upsampling of `quant`, tuned by self-distillation if that changed.

    Hold-out images of the automatic selection are not used.
    """
    network = with_upsampling(loaded.network, quant.upsample or loaded.network.settings["upsample"])
    if network is loaded.network or quant.upsampling_tuning is None:
        return network
    from heatpose.data.augmented import draw_augmented
    from heatpose.quantize.calibration import shared_images
    from heatpose.quantize.select import split_training

    console.print(
        f"Upsampling changes from {loaded.network.settings['upsample']} to {quant.upsample}:"
        f" {quant.upsampling_tuning.steps} steps of self-distillation."
    )
    instances, _ = split_training(training, shared_images(training, scored), quant.auto)
    images = draw_augmented(
        instances,
        quant.upsampling_tuning.images,
        loaded.skeleton,
        loaded.preprocessing,
        quant.upsampling_tuning.seed,
    ).images
    tune_upsampling(network, loaded.network, images, loaded.preprocessing, quant.upsampling_tuning)
    return network


def endings(
    quant: QuantSettings, target: Target | None, four_heads: bool = False
) -> tuple[Output, bool]:
    """Output type, and whether the output is a probability: from `quant`, else from the target.

    Decoded poses are always float32.
    """
    wanted: Output = "float32" if four_heads or target is None else target.export.output
    return quant.output or wanted, (
        (target is None or target.export.sigmoid) if quant.sigmoid is None else quant.sigmoid
    )


def _model_name(loaded: LoadedCheckpoint, name: str) -> str:
    return str(loaded.metadata.get("model") or name)


def result_of_bundle(bundle: BundleResult, boards: Sequence[Target]) -> RunResult:
    """Result of a run with an export; status "failed" if a file failed an acceptance check."""
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
        f"{', '.join(failed)} failed an acceptance check and must not be deployed; see the reasons"
        f" in the bundle '{bundle.folder}', which keeps the rejected files."
    )
    return RunResult(
        "failed" if failed else "finished",
        reason if failed else "",
        bundle.rows[0].oks if bundle.rows else None,
        {name: scores[name] for name in files},
        numbers,
        str(bundle.folder),
        sum(bundle.seconds.values()),
    )


def result_of_checkpoint(path: Path, oks: float | None, boards: Sequence[Target]) -> RunResult:
    """Result of a run without an export; estimates are those of the network."""
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
