"""The model file that is deployed: a bundle's or any TFLite, checked, and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from heatpose.bundles.bundle import Bundle
from heatpose.bundles.facts import FileFacts, ScoreThreshold, read_manifest
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton, for_keypoint_count
from heatpose.runners.outputs import Layout, choose_output
from heatpose.runners.tflite_runner import gives_probabilities, input_form
from heatpose.tflite.graph import Graph, Quantization, Tensor
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import sha256

REJECTED = ".rejected"


@dataclass(frozen=True)
class DeployModel:
    """A TFLite pose model.

    Attributes:
        path: The file.
        sha256: Of its content.
        graph: What it holds.
        input: Tensor of the image, (1, S, S, 3).
        output: Tensor of the pose or the heatmaps.
        size: S, input pixels.
        layout: Of the output.
        keypoints: K.
        skeleton: What the channels are.
        preprocessing: How an image becomes the input.
        probabilities: Whether the heatmaps are probabilities; None where only the values can tell.
        rejected: It failed a gate of its export.
        threshold: From which score on a keypoint is drawn.
        assumed: Sentences: what neither the file nor a manifest beside it says.
    """

    path: Path
    sha256: str
    graph: Graph
    input: Tensor
    output: Tensor
    size: int
    layout: Layout
    keypoints: int
    skeleton: Skeleton
    preprocessing: Preprocessing
    probabilities: bool | None
    rejected: bool
    threshold: ScoreThreshold = ScoreThreshold()
    assumed: tuple[str, ...] = ()

    @property
    def decoded(self) -> bool:
        """The output is a pose, not heatmaps."""
        return self.layout in (Layout.POSE_XY, Layout.POSE_YX)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a heatmap; (0, 0) for a decoded output."""
        if self.decoded:
            return 0, 0
        rows, columns = (
            self.output.shape[1:3] if self.layout is Layout.MAPS_LAST else self.output.shape[2:4]
        )
        return int(rows), int(columns)

    @property
    def int8_output(self) -> Quantization | None:
        """Of the output as int8, which a tool gives on request.

        None where the file has no such tensor.

        A float output that is dequantised at the end is int8 before that.
        """
        tensor, producer = self.output, self.graph.producer(self.output.index)
        if tensor.dtype == "float32" and producer is not None and producer.name == "DEQUANTIZE":
            tensor = self.graph.tensors[producer.inputs[0]]
        if tensor.quantization is None or tensor.dtype not in ("int8", "uint8"):
            return None
        shift = 128 if tensor.dtype == "uint8" else 0
        points = tensor.quantization.zero_points - shift
        return replace(tensor.quantization, zero_points=points)

    @property
    def stem(self) -> str:
        """File name without its endings."""
        return self.path.name.removesuffix(".tflite").removesuffix(REJECTED)


def read_model(path: Path) -> DeployModel:
    """Reads a TFLite file, with the manifest beside it where there is one.

    Raises:
        HeatposeError: It is missing, no TFLite, or no pose model.
    """
    graph = read_graph(path)
    form = input_form(path, graph)
    choice = choose_output(path, [graph.tensors[i].shape for i in graph.outputs], form.size)
    output = graph.tensors[graph.outputs[choice.position]]
    known = read_manifest(path).checked(path, choice.keypoints)
    skeleton = known.skeleton or for_keypoint_count(choice.keypoints)
    how = known.preprocessing or Preprocessing(form.size)
    return DeployModel(
        path=path,
        sha256=sha256(path),
        graph=graph,
        input=graph.tensors[form.index],
        output=output,
        size=form.size,
        layout=choice.layout,
        keypoints=choice.keypoints,
        skeleton=skeleton,
        preprocessing=how,
        probabilities=gives_probabilities(graph, output.index),
        rejected=path.name.endswith(f"{REJECTED}.tflite"),
        threshold=known.threshold or ScoreThreshold(),
        assumed=_assumed(known, skeleton, how),
    )


def _assumed(known: FileFacts, skeleton: Skeleton, how: Preprocessing) -> tuple[str, ...]:
    """What was taken for granted, as sentences."""
    found = []
    if known.skeleton is None:
        names = ", ".join(skeleton.keypoints[:3])
        found.append(f"Keypoints are those of '{skeleton.name}' ({names}, ...).")
    if known.preprocessing is None:
        found.append(
            f"The input is the whole RGB image stretched to {how.size}x{how.size} "
            f"({how.sampling} sampling), each byte divided by {how.divisor:g}, less {how.shift:g}."
        )
    if known.threshold is None:
        default = ScoreThreshold()
        found.append(f"The score threshold is {default.value:g} ({default.source}).")
    return tuple(found)


def choose_model(source: Path, target: Target, *, allow_rejected: bool = False) -> DeployModel:
    """A TFLite file, or the artefact of a bundle that a target takes.

    Args:
        source: Folder of a bundle, or a TFLite file, of a bundle or of another pipeline.
        target: The board.
        allow_rejected: Take a file that failed a gate of its export, where there is no other.

    Raises:
        HeatposeError: No bundle, no such artefact, only a rejected one, or the file is not the one
            that was exported.
    """
    if source.is_file() or source.suffix == ".tflite":
        if Bundle.is_bundle(source.parent):
            Bundle.read(source.parent).check_file(source)
        return read_model(source)
    bundle = Bundle.read(source)
    passed = sorted(path for path in source.glob(f"*_{target.artefact}.tflite"))
    rejected = sorted(source.glob(f"*_{target.artefact}{REJECTED}.tflite"))
    if not passed and not rejected:
        made = ", ".join(sorted(path.name for path in source.glob("*.tflite"))) or "none"
        raise HeatposeError(
            f"'{source}' has no {target.artefact} file, which {target.name} takes (it has {made}); "
            f"export with quant={_quant(target)}."
        )
    if not passed and not allow_rejected:
        why = " ".join(bundle.failures(target.artefact)) or "The manifest does not say why."
        raise HeatposeError(
            f"'{rejected[0]}' failed a gate of its export. {why} Export again with `heatpose export"
            " checkpoint=CHECKPOINT quant=auto`, which looks for a method that passes, or deploy"
            " it knowingly with --allow-rejected."
        )
    path = (passed or rejected)[0]
    bundle.check_file(path)
    return read_model(path)


def bundle_file(source: Path) -> Path:
    """A model file as it is; of a bundle its per-channel file, else its first TFLite.

    Raises:
        HeatposeError: The folder is not a bundle, or has no TFLite.
    """
    if not source.is_dir():
        return source
    Bundle.read(source)
    found = sorted(source.glob("*_int8_pc.tflite")) + sorted(source.glob("*.tflite"))
    if not found:
        raise HeatposeError(f"'{source}' has no TFLite file; export it again with quant=auto.")
    return found[0]


def _quant(target: Target) -> str:
    return target.artefact if target.artefact != "float32" else "none"
