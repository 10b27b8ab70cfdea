"""What is stated, given, computed and assumed about a model file, and a trial run of a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from heatpose.bundles.bundle import Bundle
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton, for_keypoint_count
from heatpose.runners.normalisation import InputReading
from heatpose.utils.files import sha256

if TYPE_CHECKING:
    from heatpose.bundles.facts import FileFacts


class Read(Protocol):
    """The attributes of a `PoseRunner` that describe a file; those of an unrun file as well."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def keypoints(self) -> int:
        """K."""

    @property
    def skeleton(self) -> Skeleton | None:
        """See `PoseRunner.skeleton`."""

    @property
    def input(self) -> InputReading:
        """See `PoseRunner.input`."""

    @property
    def assumed_output(self) -> str:
        """See `PoseRunner.assumed_output`."""


@dataclass(frozen=True)
class Reading:
    """Interpretation of a model file.

    Attributes:
        model: Name of the file.
        skeleton: Of its channels.
        assumed: "skeleton", "normalisation", "output" -> assumption, if not stated.
        computed: "normalisation" -> value computed from the file.
        notes: Clauses about options that were not used.
    """

    model: str
    skeleton: Skeleton
    assumed: dict[str, str]
    computed: dict[str, str]
    notes: tuple[str, ...] = ()

    def line(self, option: str = "--") -> str:
        """One line for the user; "" if everything is stated or given.

        Args:
            option: Prefix of the names of the two settings: "--" or "distill.".
        """
        parts = [*self.notes]
        if self.computed:
            parts.insert(
                0,
                "computed " + ", ".join(f"{name} {value}" for name, value in self.computed.items()),
            )
        if self.assumed:
            text = "assumed " + ", ".join(f"{name} {value}" for name, value in self.assumed.items())
            settings = [
                option + name for name in self.assumed if name in ("skeleton", "normalisation")
            ]
            parts.insert(0, f"{text} (to change: {', '.join(settings)})" if settings else text)
        return f"{self.model}: {'; '.join(parts)}." if parts else ""

    def to_json(self) -> dict[str, dict[str, str]]:
        """`assumed` and `computed`, for JSON files."""
        return {"assumed": self.assumed, "computed": self.computed}


def reading_of(model: Read, chosen: Skeleton | None = None) -> Reading:
    """Interprets a model.

    Args:
        model: A runner or an unrun file.
        chosen: Skeleton of the user; None for the model's own, else the built-in one of its number
            of keypoints.

    Raises:
        HeatposeError: The skeleton has another number of keypoints, or there is none.
    """
    skeleton = chosen or model.skeleton or for_keypoint_count(model.keypoints)
    if len(skeleton) != model.keypoints:
        raise HeatposeError(
            f"'{model.path}' has {model.keypoints} keypoints, but skeleton '{skeleton.name}' has "
            f"{len(skeleton)}; choose the one it was made for."
        )
    assumed, computed = dict[str, str](), dict[str, str]()
    if chosen is None and model.skeleton is None:
        assumed["skeleton"] = skeleton.name
    if model.input.origin == "assumed":
        assumed["normalisation"] = str(model.input.normalisation)
    if model.input.origin == "computed":
        computed["normalisation"] = f"{model.input.normalisation} (from {model.input.reason})"
    if model.assumed_output:
        assumed["output"] = model.assumed_output
    notes = (model.input.note,) if model.input.note else ()
    return Reading(model.path.name, skeleton, assumed, computed, notes)


@dataclass(frozen=True)
class UnrunFile:
    """A pose model that was not run; attributes as in `PoseRunner`."""

    path: Path
    keypoints: int
    skeleton: Skeleton | None
    input: InputReading
    assumed_output: str


def describe_file(path: Path) -> dict[str, Any]:
    """What a TFLite or ONNX file states about itself, and what would be assumed.

    A TFLite file is not run. An ONNX file is run once, because its shapes are often open.

    Returns:
        `assumed` and `computed`; and if the file or its bundle states them, `skeleton`,
        `preprocessing` and `stated_by`. Empty for files that are not pose models.

    Raises:
        HeatposeError: Its metadata or the manifest beside it cannot be parsed.
    """
    facts, read = _read_onnx(path) if path.suffix.lower() == ".onnx" else _read_tflite(path)
    content: dict[str, Any] = {"assumed": {}, "computed": {}}
    if facts.skeleton is not None:
        content |= {
            "skeleton": facts.skeleton.to_dict(),
            "stated_by": facts.written_by or facts.source,
        }
    if facts.preprocessing is not None:
        content["preprocessing"] = facts.preprocessing.to_dict()
    try:
        return content if read is None else {**content, **reading_of(read).to_json()}
    except (
        HeatposeError
    ):  # no built-in skeleton has as many keypoints: nothing is assumed, running it asks for one
        return content


def _read_tflite(path: Path) -> tuple[FileFacts, Read | None]:
    from heatpose.bundles.facts import tflite_facts
    from heatpose.runners.outputs import choose_output
    from heatpose.runners.tflite_runner import gives_classes, input_encoding, read_input
    from heatpose.tflite.reader import read_graph

    graph, facts = read_graph(path), tflite_facts(path)
    try:
        encoding = input_encoding(path, graph)
        output = choose_output(path, [graph.tensors[i].shape for i in graph.outputs], encoding.size)
        if output.decoded and gives_classes(graph, graph.outputs[output.position]):
            return facts, None
    except HeatposeError:  # not a pose model, which is allowed here
        return facts, None
    taken = read_input(graph, encoding, facts.preprocessing)
    return facts, UnrunFile(path, output.keypoints, facts.skeleton, taken, output.assumed(facts))


def _read_onnx(path: Path) -> tuple[FileFacts, Read | None]:
    from heatpose.bundles.facts import onnx_facts
    from heatpose.runners import open_runner
    from heatpose.tflite.inspect import load_onnx

    model = load_onnx(path, path.read_bytes())
    facts = onnx_facts(path, {entry.key: entry.value for entry in model.metadata_props})
    try:
        check_runs(path)
        return facts, open_runner(path, threads=1)
    except HeatposeError:
        return facts, None


RUNTIMES = {".tflite": "LiteRT", ".onnx": "onnxruntime"}
LONGEST_S = 300
"""Timeout in seconds for the start of the process and one image."""


def check_runs(path: str | Path, size: int | None = None) -> None:
    """Refuses a TFLite or ONNX file that crashes its runtime, by a trial run in a child process.

    Other errors of the file are left to `open_runner`. A file with the hash of the manifest beside
    it is not tried, because its export has run it.

    Args:
        path: The file; other kinds and missing files pass.
        size: Input side for files that leave it open.

    Raises:
        HeatposeError: The process crashed, or exceeded the timeout.
    """
    path = Path(path)
    runtime = RUNTIMES.get(path.suffix.lower())
    if runtime is None or not path.is_file() or _vouched_for(path):
        return
    command = [
        sys.executable,
        "-m",
        __name__,
        str(path.resolve()),
        *([] if size is None else [str(size)]),
    ]
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise HeatposeError(
            f"'{path}' did not run through {runtime} once in {LONGEST_S} s; it is damaged or far"
            " too large: get it again."
        ) from error
    if done.returncode not in (0, 1):  # 1 is a Python exception, which the caller will get as well
        raise HeatposeError(
            f"'{path}' crashes {runtime} ({_ending(done.returncode)}); the file is damaged: export"
            " or download it again."
        )


def _vouched_for(path: Path) -> bool:
    """Whether the manifest beside the file has its hash."""
    try:
        bundle = Bundle.around(path)
        recorded = bundle.files().get(path.name, {}).get("sha256") if bundle else None
        return recorded is not None and bool(recorded == sha256(path))
    except (OSError, HeatposeError):
        return False


def _ending(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"status {status}"


def main() -> None:
    """Runs the file on one black image; exits with 0 if it is refused: the caller reports that."""
    # Imported here: the parent process does not need them.
    import numpy as np

    from heatpose.runners import open_runner

    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(HeatposeError):
        runner = open_runner(
            sys.argv[1], threads=1, size=int(sys.argv[2]) if len(sys.argv) > 2 else None
        )
        runner.predict(np.zeros((1, runner.size, runner.size, 3), np.uint8))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
