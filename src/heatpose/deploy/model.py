"""The TFLite model that is deployed, from a bundle or another pipeline."""

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
from heatpose.runners.tflite_runner import gives_probabilities, input_encoding
from heatpose.tflite.graph import Graph, Quantization, Tensor
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import sha256

REJECTED = ".rejected"
_REMEDY = "give a folder below exports/ or a .tflite file"


@dataclass(frozen=True)
class DeployModel:
    """A TFLite pose model.

    Attributes:
        path: TFLite file.
        sha256: SHA-256 of its content.
        graph: Operators and tensors.
        input: Tensor of the image, (1, S, S, 3).
        output: Tensor of the pose or the heatmaps.
        size: S, side of the input in pixels.
        layout: Layout of the output.
        keypoints: K, number of keypoints.
        skeleton: Keypoint names, edges and sigmas.
        preprocessing: Conversion of an image to the input.
        probabilities: Whether the heatmaps are probabilities; None if the graph does not determine
            it.
        rejected: Whether it failed an acceptance check of its export.
        threshold: Lowest score of a drawn keypoint.
        assumed: Sentences on values stated neither by the file nor by a manifest.
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
        """Whether the output is a pose instead of heatmaps."""
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
        """Quantisation of the output as int8; None if the file has no such tensor.

        For a float output behind a DEQUANTIZE, that of its input.
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
        """File name without `.tflite` and `.rejected`."""
        return self.path.name.removesuffix(".tflite").removesuffix(REJECTED)


def read_model(path: Path) -> DeployModel:
    """Reads a TFLite file and the manifest beside it, if any.

    Raises:
        HeatposeError: The file is missing, not a TFLite, or not a pose model.
    """
    graph = read_graph(path)
    encoding = input_encoding(path, graph)
    choice = choose_output(path, [graph.tensors[i].shape for i in graph.outputs], encoding.size)
    output = graph.tensors[graph.outputs[choice.position]]
    known = read_manifest(path).checked(path, choice.keypoints)
    skeleton = known.skeleton or for_keypoint_count(choice.keypoints)
    how = known.preprocessing or Preprocessing(encoding.size)
    return DeployModel(
        path=path,
        sha256=sha256(path),
        graph=graph,
        input=graph.tensors[encoding.index],
        output=output,
        size=encoding.size,
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
    """Sentences on assumed values."""
    found = []
    if known.skeleton is None:
        names = ", ".join(skeleton.keypoints[:3])
        found.append(f"Keypoints are those of '{skeleton.name}' ({names}, ...).")
    if known.preprocessing is None:
        found.append(
            f"The input is the whole RGB image stretched to {how.size}x{how.size} "
            f"({how.sampling} sampling), byte / {how.divisor:g} - {how.shift:g}."
        )
    if known.threshold is None:
        default = ScoreThreshold()
        found.append(f"The score threshold is {default.value:g} ({default.source}).")
    return tuple(found)


def choose_model(source: Path, target: Target, *, allow_rejected: bool = False) -> DeployModel:
    """Reads a TFLite file, or the artefact of a bundle for a target.

    Args:
        source: Folder of a bundle, or a TFLite file of a bundle or of another pipeline.
        target: Board.
        allow_rejected: Accept a file that failed an acceptance check if there is no other.

    Raises:
        HeatposeError: `source` is not a bundle, has no such artefact or only a rejected one, or the
            file differs from the exported one.
    """
    if source.is_file() or source.suffix == ".tflite":
        if Bundle.is_bundle(source.parent):
            Bundle.read(source.parent).check_file(source)
        return read_model(source)
    bundle = Bundle.read(source, _REMEDY)
    passed = sorted(path for path in source.glob(f"*_{target.artefact}.tflite"))
    rejected = sorted(source.glob(f"*_{target.artefact}{REJECTED}.tflite"))
    if not passed and not rejected:
        made = ", ".join(sorted(path.name for path in source.glob("*.tflite"))) or "none"
        raise HeatposeError(
            f"'{source}' has no {target.artefact} file, which {target.name} needs (it has {made}); "
            f"export with quant={_quant(target)}."
        )
    if not passed and not allow_rejected:
        why = " ".join(bundle.failures(target.artefact)) or "The manifest has no reason."
        raise HeatposeError(
            f"'{rejected[0]}' failed an acceptance check of its export. {why} Export again with"
            " `heatpose export checkpoint=CHECKPOINT quant=auto`, which searches for a method that"
            " passes, or deploy it anyway with --allow-rejected."
        )
    path = (passed or rejected)[0]
    bundle.check_file(path)
    return read_model(path)


def bundle_file(source: Path) -> Path:
    """Returns a file unchanged; for a bundle its per-channel int8 file, else its first TFLite.

    Raises:
        HeatposeError: The folder is not a bundle, or has no TFLite.
    """
    if not source.is_dir():
        return source
    Bundle.read(source, _REMEDY)
    found = sorted(source.glob("*_int8_pc.tflite")) + sorted(source.glob("*.tflite"))
    if not found:
        raise HeatposeError(f"'{source}' has no TFLite file; export it again with quant=auto.")
    return found[0]


def _quant(target: Target) -> str:
    return target.artefact if target.artefact != "float32" else "none"
