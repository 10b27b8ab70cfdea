"""Person pose on an STM32MP2 or STM32MP1 board (X-LINUX-AI), from pictures or a camera; the same program runs on a PC.

    python3 pose_app.py pose.tflite photo.jpg folder --out poses
    python3 pose_app.py pose.nb --camera 0

Needs numpy and Pillow, OpenCV for a camera, and one of: stai_mpu (on the board: .nb on the NPU, .tflite on the CPU), ai_edge_litert, tflite_runtime.
`pose_model.json` beside this file says what the model is. Preprocessing, decoding and drawing are heatpose's own modules, copied beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heatpose import codec
from heatpose.errors import HeatposeError, told_in_one_sentence
from heatpose.image_files import SUFFIXES, load_image
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import Skeleton
from heatpose.viz import draw_pose

Picture = NDArray[np.uint8]


class Network(Protocol):
    """A loaded model."""

    def run(self, image: Picture) -> NDArray[np.float32]:
        """u8[S, S, 3] raw bytes -> its output as real values, f32[1, ...]."""
        ...


class StaiNetwork:
    """Through ST's `stai_mpu`, which takes .nb, .tflite and .onnx files."""

    def __init__(self, path: Path) -> None:
        from stai_mpu import stai_mpu_network  # type: ignore[import-not-found]

        self._network = stai_mpu_network(str(path))
        self._input, self._output = self._network.get_input_infos()[0], self._network.get_output_infos()[0]

    def run(self, image: Picture) -> NDArray[np.float32]:
        """See `Network.run`."""
        self._network.set_input(0, as_input(image, np.dtype(self._input.get_dtype())))
        self._network.run()
        raw = np.asarray(self._network.get_output(0)).reshape(self._output.get_shape())
        if raw.dtype.kind == "f":
            return raw.astype(np.float32)
        return dequantised(raw, float(self._output.get_scale()), int(self._output.get_zero_point()))


class LiteRTNetwork:
    """Through LiteRT or the older TFLite runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            from tflite_runtime.interpreter import Interpreter  # type: ignore[import-not-found]
        self._network = Interpreter(model_path=str(path), num_threads=threads)
        self._network.allocate_tensors()
        self._input, self._output = self._network.get_input_details()[0], self._network.get_output_details()[0]

    def run(self, image: Picture) -> NDArray[np.float32]:
        """See `Network.run`."""
        self._network.set_tensor(self._input["index"], as_input(image, np.dtype(self._input["dtype"])))
        self._network.invoke()
        raw = self._network.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return raw.astype(np.float32) if raw.dtype.kind == "f" else dequantised(raw, scale, zero_point)


def as_input(image: Picture, dtype: np.dtype[Any]) -> NDArray[Any]:
    """u8[S, S, 3] -> (1, S, S, 3) in the network's type: raw bytes, int8 less 128, or -1..1."""
    batch = image[None]
    if dtype == np.int8:
        return (batch.astype(np.int16) - 128).astype(np.int8)
    return batch if dtype == np.uint8 else (batch.astype(np.float32) / 127.5 - 1).astype(dtype)


def dequantised(raw: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Real values, rounded once, as heatpose does it."""
    return ((raw.astype(np.int64) - zero_point) * np.float64(scale)).astype(np.float32)


def open_network(path: Path, threads: int) -> Network:
    """The runtime that is there: `stai_mpu` on a board, else LiteRT.

    Raises:
        HeatposeError: None is there, or the file cannot be loaded.
    """
    if not path.is_file():
        raise HeatposeError(f"'{path}' does not exist; give the path of the .nb or .tflite file.")
    try:
        return StaiNetwork(path)
    except ImportError:
        if path.suffix == ".nb":
            raise HeatposeError(f"'{path}' runs on the NPU through stai_mpu, which this machine does not have; use the .tflite file here.") from None
    try:
        return LiteRTNetwork(path, threads)
    except ImportError as error:
        raise HeatposeError("No runtime is installed: on the board X-LINUX-AI has stai_mpu for Python; on a PC `pip install ai-edge-litert`.") from error
    except (RuntimeError, ValueError) as error:
        raise HeatposeError(f"'{path}' cannot be loaded ({str(error).splitlines()[0]}).") from error


@dataclass(frozen=True)
class Model:
    """What `pose_model.json` says: skeleton, preprocessing, layout of the output ("maps", "pose_xy" or "pose_yx"), whether maps are probabilities."""

    skeleton: Skeleton
    preprocessing: Preprocessing
    layout: str
    probabilities: bool

    @classmethod
    def read(cls, path: Path) -> Model:
        """Reads the file.

        Raises:
            HeatposeError: It is missing or damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            skeleton, preprocessing = Skeleton(**content["skeleton"]), Preprocessing(**content["preprocessing"])
            return cls(skeleton, preprocessing, content["layout"], content["probabilities"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HeatposeError(f"'{path}' cannot be read ({error}); it belongs beside pose_app.py.") from error

    def pose(self, output: NDArray[np.float32], how: str) -> NDArray[np.float32]:
        """The network's output -> f32[K, 3] x and y in fractions of the picture's sides, score in [0, 1]."""
        if self.layout != "maps":
            triples: NDArray[np.float32] = output.reshape(-1, 3)
            return triples[:, [1, 0, 2]] if self.layout == "pose_yx" else triples
        maps = output.reshape(1, *output.shape[-3:])
        if maps.shape[3] == len(self.skeleton) and maps.shape[1] == maps.shape[2]:  # channels last, as in the TFLite; an NBG may have them first
            maps = maps.transpose(0, 3, 1, 2)
        pose: NDArray[np.float32] = codec.decode(np.ascontiguousarray(maps), how)[0]
        if not self.probabilities:
            pose[:, 2] = 0.5 + 0.5 * np.tanh(0.5 * pose[:, 2])
        return pose


def pictures(sources: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    """Names and u8[H, W, 3] of all pictures among files and folders."""
    for source in sources:
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES) if source.is_dir() else [source]
        if not found:
            raise HeatposeError(f"'{source}' holds no pictures ({', '.join(SUFFIXES)}); give another folder, or the pictures themselves.")
        for path in found:
            yield path.name, load_image(path)


def camera(index: int) -> Iterator[tuple[str, Picture]]:
    """Pictures of a camera, until it ends.

    Raises:
        HeatposeError: OpenCV is missing, or there is no such camera.
    """
    try:
        import cv2
    except ImportError as error:
        raise HeatposeError("A camera needs OpenCV for Python; on a PC `pip install opencv-python`.") from error
    device = cv2.VideoCapture(index)
    if not device.isOpened():
        raise HeatposeError(f"There is no camera {index}; `ls /dev/video*` lists them.")
    number = 0
    while (read := device.read())[0]:
        yield f"frame_{number:06d}.png", np.ascontiguousarray(read[1][..., ::-1])
        number += 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="Person pose from pictures or a camera.")
    parser.add_argument("model", type=Path, help=".nb or .tflite")
    parser.add_argument("sources", type=Path, nargs="*", help="pictures and folders of pictures")
    parser.add_argument("--camera", type=int, help="camera number instead of pictures")
    parser.add_argument("--out", type=Path, help="folder for drawn pictures and poses.json; nothing is drawn without it")
    parser.add_argument("--decode", choices=codec.DECODES, default="refined")
    parser.add_argument("--threshold", type=float, default=0.2, help="keypoints with a lower score are not drawn")
    parser.add_argument("--threads", type=int, default=2, help="processor threads, where the processor runs the network")
    parser.add_argument("--frames", type=int, help="stop after so many pictures")
    options = parser.parse_args(arguments)
    if not options.sources and options.camera is None:
        parser.error("give pictures, or --camera 0")
    with told_in_one_sentence():
        run(options)


def run(options: argparse.Namespace) -> None:
    """One picture after the other: its pose, the milliseconds it took, and on request the drawing."""
    model = Model.read(Path(__file__).with_name("pose_model.json"))
    network = open_network(options.model, options.threads)
    poses: dict[str, list[list[float]]] = {}
    for count, (name, picture) in enumerate(pictures(options.sources) if options.camera is None else camera(options.camera), 1):
        image = model.preprocessing.resize(picture)
        start = time.perf_counter()
        output = network.run(image)
        ms = (time.perf_counter() - start) * 1000
        pose = model.pose(output, options.decode)
        seen = int((pose[:, 2] >= options.threshold).sum())
        print(f"{name}: {seen} of {len(pose)} keypoints, {ms:.1f} ms", flush=True)
        poses[name] = pose.astype(float).round(6).tolist()
        if options.out is not None:
            _keep(options.out / Path(name).with_suffix(".png"), draw_pose(picture, pose, model.skeleton, threshold=options.threshold))
        if count == options.frames:
            break
    if options.out is not None:
        _keep(options.out / "poses.json", json.dumps({"keypoints": list(model.skeleton.keypoints), "poses": poses}, indent=1))


def _keep(path: Path, content: Picture | str) -> None:
    """Writes a picture or a text.

    Raises:
        HeatposeError: The folder cannot be written.
    """
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            Image.fromarray(content).save(path)
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be written ({error.strerror}); choose another folder with --out.") from error


if __name__ == "__main__":
    main()
