"""Arguments and options shared by several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.utils.files import conf_folder

if TYPE_CHECKING:
    from heatpose.pose.skeleton import Skeleton
    from heatpose.runners.normalisation import Normalisation
    from heatpose.runners.reading import Reading


class Sampling(StrEnum):
    """Resampling of images."""

    nearest = "nearest"
    bilinear = "bilinear"


class Decode(StrEnum):
    """Decoding of heatmaps."""

    argmax = "argmax"
    refined = "refined"


class Split(StrEnum):
    """Part of a COCO 2017 data set."""

    train = "train"
    val = "val"


MODEL_SUFFIXES = (".ckpt", ".pt", ".pth", ".onnx", ".tflite")


def model_files(incomplete: str) -> list[str]:
    """Shell completion: model files, and folders."""
    start = incomplete[: incomplete.rfind("/") + 1]
    try:
        entries = sorted(Path(start or ".").expanduser().iterdir())
    except OSError:
        return []
    names = [
        entry.name + "/" if entry.is_dir() else entry.name
        for entry in entries
        if entry.is_dir() or entry.suffix.lower() in MODEL_SUFFIXES
    ]
    hidden = incomplete[len(start) :].startswith(".")
    found = [
        start + name
        for name in names
        if (start + name).startswith(incomplete) and (hidden or not name.startswith("."))
    ]
    # the shell would end the word with a space, so the folder's content is returned
    if len(found) == 1 and found[0].endswith("/"):
        return model_files(found[0]) or found
    return found


def model_names(incomplete: str) -> list[str]:
    """For the shell's completion: model files, and the names of released networks."""
    from heatpose.bundles.released import released

    return [*model_files(incomplete), *(n for n in released() if n.startswith(incomplete))]


def target_names(incomplete: str) -> list[str]:
    """Shell completion: built-in boards, and YAML files."""
    from heatpose.deploy.targets import built_in

    return [name for name in (*built_in(), *_yaml_files(incomplete)) if name.startswith(incomplete)]


def _yaml_files(incomplete: str) -> list[str]:
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    return (
        [str(path) for path in sorted(folder.glob("*.y*ml"))]
        if incomplete and folder.is_dir()
        else []
    )


Model = Annotated[
    Path,
    typer.Argument(
        help=(
            "Checkpoint (.ckpt), ONNX or TFLite file, or a released network: NAME, NAME/int8_pt"
            " (heatpose models lists them)."
        ),
        autocompletion=model_names,
    ),
]
Annotations = Annotated[
    Path,
    typer.Option(help="COCO keypoint JSON, or an export of a labelling tool (docs/labels.md)."),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder of its images; derived from the labels by default."),
]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Also write the result here.")]
SkeletonFile = Annotated[
    Path | None,
    typer.Option(help="coco17, st13 or a skeleton YAML, for files without metadata."),
]
NormalisationText = Annotated[
    str | None,
    typer.Option(
        "--normalisation",
        help=(
            "Input normalisation of model files without metadata: -1..1, 0..1, 0..255, imagenet, "
            "or mean=R,G,B,std=R,G,B."
        ),
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option(help="Side of the input, for checkpoints; other files have a fixed one."),
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all by default.")]
ReferenceKernels = Annotated[
    bool,
    typer.Option(
        help="TFLite's reference kernels instead of XNNPACK: slower, bit-exact integer arithmetic."
    ),
]
SamplingChoice = Annotated[Sampling, typer.Option(help="nearest is the published protocol.")]
DecodeChoice = Annotated[Decode, typer.Option(help="argmax is the published protocol.")]
BOARDS = ", ".join(path.stem for path in sorted((conf_folder() / "target").glob("*.yaml")))
TargetChoice = Annotated[
    str,
    typer.Option(
        help=f"{BOARDS}, or the path of a board's YAML.",
        autocompletion=target_names,
    ),
]


def read_skeleton(path: Path | None) -> Skeleton | None:
    """Reads the skeleton of the option, if given.

    Raises:
        HeatposeError: It is neither a built-in name nor a skeleton YAML.
    """
    from heatpose.pose.skeleton import named

    return None if path is None else named(path)


def print_reading(reading: Reading) -> None:
    """Prints assumed and computed values of a file in one line, if there are any."""
    if line := reading.line():
        typer.echo(line)


def read_normalisation(text: str | None) -> Normalisation | None:
    """Parses the normalisation of the option, if given.

    Raises:
        HeatposeError: It cannot be parsed.
    """
    from heatpose.runners.normalisation import Normalisation

    return None if text is None else Normalisation.parse(text)
