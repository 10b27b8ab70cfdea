"""Person pose on an STM32MP2 or STM32MP1 board (X-LINUX-AI); the same program runs on a PC.

    python3 pose_app.py pose.tflite photo.jpg folder --out poses
    python3 pose_app.py pose.nb --camera 0 --window

Needs numpy and Pillow, OpenCV for a camera or a window, and one of: stai_mpu (on the board),
ai_edge_litert, tflite_runtime. The first line of output names the runtime:

- `.nb`: stai_mpu with the NPU;
- `.tflite` on an STM32MP2: the NPU through LiteRT and `libvx_delegate.so.2`, if installed;
- `.tflite` elsewhere: stai_mpu or LiteRT on the processor.

`pose_model.json` beside this file describes the model. Preprocessing, decoding and drawing are
modules of heatpose, copied beside this file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError, exit_on_user_error
from heatpose.pose import codec
from heatpose.pose.draw import draw_pose
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.utils.image_files import SUFFIXES, load_image

DELEGATE = "libvx_delegate.so.2"
Image = NDArray[np.uint8]
"""RGB image, u8[H, W, 3]."""


class Network(Protocol):
    """A loaded model; `path` names processor and runtime."""

    path: str

    def run(self, image: Image) -> NDArray[np.float32]:
        """u8[S, S, 3] raw bytes -> dequantised output, f32[1, ...]."""
        ...


class StaiNetwork:
    """Runtime `stai_mpu` by ST; uses the NPU for `.nb` files only, as ST's samples do.

    `use_hw_acceleration` is True by default and raises RuntimeError on a board without NPU.
    """

    def __init__(self, path: Path) -> None:
        from stai_mpu import stai_mpu_network  # type: ignore[import-not-found]

        npu = path.suffix == ".nb"
        self._network = stai_mpu_network(model_path=str(path), use_hw_acceleration=npu)
        self.path = f"{'the NPU' if npu else 'the processor'} through stai_mpu"
        self._input, self._output = (
            self._network.get_input_infos()[0],
            self._network.get_output_infos()[0],
        )

    def run(self, image: Image) -> NDArray[np.float32]:
        """See `Network.run`."""
        self._network.set_input(0, as_input(image, np.dtype(self._input.get_dtype())))
        self._network.run()
        raw = np.asarray(self._network.get_output(0)).reshape(self._output.get_shape())
        if raw.dtype.kind == "f":
            return raw.astype(np.float32)
        return dequantised(raw, float(self._output.get_scale()), int(self._output.get_zero_point()))


class LiteRTNetwork:
    """LiteRT or the older TFLite runtime; with `delegate`, on the NPU of an STM32MP2."""

    def __init__(self, path: Path, threads: int, delegate: str | None = None) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, load_delegate
        except ImportError:
            from tflite_runtime.interpreter import (  # type: ignore[import-not-found]
                Interpreter,
                load_delegate,
            )
        loaded = None if delegate is None else [load_delegate(delegate)]
        self._network = Interpreter(
            model_path=str(path), num_threads=threads, experimental_delegates=loaded
        )
        self.path = f"the NPU through {delegate}" if delegate else "the processor through LiteRT"
        self._network.allocate_tensors()
        self._input, self._output = (
            self._network.get_input_details()[0],
            self._network.get_output_details()[0],
        )

    def run(self, image: Image) -> NDArray[np.float32]:
        """See `Network.run`."""
        self._network.set_tensor(
            self._input["index"], as_input(image, np.dtype(self._input["dtype"]))
        )
        self._network.invoke()
        raw = self._network.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return (
            raw.astype(np.float32) if raw.dtype.kind == "f" else dequantised(raw, scale, zero_point)
        )


def as_input(image: Image, dtype: np.dtype[Any]) -> NDArray[Any]:
    """u8[S, S, 3] -> (1, S, S, 3): uint8 bytes, int8 bytes - 128, or float in [-1, 1]."""
    batch = image[None]
    if dtype == np.int8:
        return (batch.astype(np.int16) - 128).astype(np.int8)
    return batch if dtype == np.uint8 else (batch.astype(np.float32) / 127.5 - 1).astype(dtype)


def dequantised(raw: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Real values scale * (raw - zero_point), f32 of `raw`'s shape, as in heatpose's runners."""
    return ((raw.astype(np.int64) - zero_point) * np.float64(scale)).astype(np.float32)


def open_network(path: Path, threads: int, npu_tflite: bool = False) -> Network:
    """Opens the fastest installed runtime that loads the file; failures are printed.

    Args:
        path: `.nb` or `.tflite`.
        threads: Processor threads.
        npu_tflite: Try the NPU for a `.tflite`, as on an STM32MP2.

    Raises:
        HeatposeError: No runtime is installed, or the file cannot be loaded.
    """
    if not path.is_file():
        raise HeatposeError(f"'{path}' does not exist; give the path of the .nb or .tflite file.")
    ways: list[Callable[[], Network]] = [lambda: StaiNetwork(path)]
    if path.suffix != ".nb":
        ways.append(lambda: LiteRTNetwork(path, threads))
        if npu_tflite and delegate_there():
            ways.insert(0, lambda: LiteRTNetwork(path, threads, DELEGATE))
    failed, missing = "", True
    for way in ways:
        try:
            network = way()
        except ImportError:
            continue
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            missing, failed = False, (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{path.name}: a runtime cannot load it ({failed})", flush=True)
        else:
            print(f"{path.name} runs on {network.path}.", flush=True)
            return network
    if path.suffix == ".nb" and missing:
        raise HeatposeError(
            f"'{path}' runs on the NPU through stai_mpu, which is not installed on this machine; "
            "use the .tflite file here."
        )
    if missing:
        raise HeatposeError(
            "No runtime is installed: on the board X-LINUX-AI has stai_mpu for Python; "
            "on a PC `pip install ai-edge-litert`."
        )
    remedy = "; use the .tflite file" if path.suffix == ".nb" else ""
    raise HeatposeError(f"'{path}' cannot be loaded ({failed.rstrip('.')}){remedy}.")


def delegate_there() -> bool:
    """Whether the NPU's delegate, a library of X-LINUX-AI on the STM32MP2, can be loaded."""
    try:
        ctypes.CDLL(DELEGATE)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Model:
    """Content of `pose_model.json`.

    Attributes:
        skeleton: Keypoint set.
        preprocessing: Conversion of an image to the input.
        layout: "maps", "pose_xy" or "pose_yx".
        probabilities: Whether heatmaps are probabilities instead of logits.
        threshold: Lowest score of a drawn keypoint.
        npu_tflite: Whether the board's NPU runs `.tflite` files.
    """

    skeleton: Skeleton
    preprocessing: Preprocessing
    layout: str
    probabilities: bool
    threshold: float = 0.2
    npu_tflite: bool = False

    @classmethod
    def read(cls, path: Path) -> Model:
        """Reads `pose_model.json`.

        Raises:
            HeatposeError: The file is missing or damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            skeleton, preprocessing = (
                Skeleton(**content["skeleton"]),
                Preprocessing(**content["preprocessing"]),
            )
            layout, probabilities = content["layout"], content["probabilities"]
            board = content.get("threshold", 0.2), content.get("npu_tflite", False)
            return cls(skeleton, preprocessing, layout, probabilities, *board)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HeatposeError(
                f"'{path}' cannot be read ({error}); it belongs beside pose_app.py."
            ) from error

    def pose(self, output: NDArray[np.float32], how: str) -> NDArray[np.float32]:
        """Decodes the network's output to f32[K, 3]: normalised x, y, and score in [0, 1]."""
        if self.layout != "maps":
            triples: NDArray[np.float32] = output.reshape(-1, 3)
            return triples[:, [1, 0, 2]] if self.layout == "pose_yx" else triples
        maps = output.reshape(1, *output.shape[-3:])
        # channels last, as in the TFLite; an NBG may have them first
        if maps.shape[3] == len(self.skeleton) and maps.shape[1] == maps.shape[2]:
            maps = maps.transpose(0, 3, 1, 2)
        pose: NDArray[np.float32] = codec.decode(np.ascontiguousarray(maps), how)[0]
        if not self.probabilities:
            pose[:, 2] = 0.5 + 0.5 * np.tanh(0.5 * pose[:, 2])
        return pose


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="Person pose from images or a camera.")
    parser.add_argument("model", type=Path, help=".nb or .tflite")
    parser.add_argument("sources", type=Path, nargs="*", help="images and folders of images")
    parser.add_argument("--camera", help="number, device or GStreamer pipeline instead of images")
    parser.add_argument("--window", action="store_true", help="show the skeleton live; q ends")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for drawn images and poses.json; nothing is drawn without it",
    )
    parser.add_argument("--decode", choices=codec.DECODES, default="refined")
    parser.add_argument(
        "--threshold", type=float, help="keypoints with a lower score are not drawn"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        help="processor threads, where the processor runs the network",
    )
    parser.add_argument("--frames", type=int, help="stop after so many images")
    options = parser.parse_args(arguments)
    if not options.sources and options.camera is None:
        parser.error("give images, or --camera 0")
    with exit_on_user_error():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Prints pose and time of each image, and writes or shows drawings on request."""
    model = Model.read(Path(__file__).with_name("pose_model.json"))
    threshold = model.threshold if options.threshold is None else options.threshold
    network = open_network(options.model, options.threads, model.npu_tflite)
    poses: dict[str, list[list[float]]] = {}
    for count, (name, photo) in enumerate(
        images(options.sources) if options.camera is None else camera(options.camera), 1
    ):
        image = model.preprocessing.resize(photo)
        start = time.perf_counter()
        output = network.run(image)
        ms = (time.perf_counter() - start) * 1000
        pose = model.pose(output, options.decode)
        seen = int((pose[:, 2] >= threshold).sum())
        print(f"{name}: {seen} of {len(pose)} keypoints, {ms:.1f} ms", flush=True)
        poses[name] = pose.astype(float).round(6).tolist()
        if options.out is not None or options.window:
            drawn = draw_pose(photo, pose, model.skeleton, threshold=threshold)
        if options.out is not None:
            _keep(options.out / Path(name).with_suffix(".png"), drawn)
        if options.window and not show(drawn):
            break
        if count == options.frames:
            break
    if options.out is not None:
        _keep(
            options.out / "poses.json",
            json.dumps({"keypoints": list(model.skeleton.keypoints), "poses": poses}, indent=1),
        )


def _keep(path: Path, content: Image | str) -> None:
    """Writes an image or a text.

    Raises:
        HeatposeError: The file cannot be written.
    """
    from PIL import Image as PillowImage

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            PillowImage.fromarray(content).save(path)
    except OSError as error:
        raise HeatposeError(
            f"'{path}' cannot be written ({error.strerror}); choose another folder with --out."
        ) from error


def images(sources: Sequence[Path]) -> Iterator[tuple[str, Image]]:
    """Yields file name and u8[H, W, 3] RGB of all images among files and folders."""
    for source in sources:
        folder = source.is_dir()
        found = (
            sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
            if folder
            else [source]
        )
        if not found:
            raise HeatposeError(
                f"'{source}' holds no images ({', '.join(SUFFIXES)}); give another folder, or"
                " files."
            )
        for path in found:
            yield path.name, load_image(path)


def camera(source: str) -> Iterator[tuple[str, Image]]:
    """Yields frames of a camera, u8[H, W, 3] RGB, until it ends.

    Args:
        source: Number, device (`/dev/video3`), or GStreamer pipeline that ends in `appsink`.

    Raises:
        HeatposeError: OpenCV is missing, or there is no such camera.
    """
    cv2 = opencv("A camera")
    if "!" in source:
        device = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        remedy = "OpenCV must be built with GStreamer; try the pipeline with gst-launch-1.0"
    else:
        device = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        remedy = "`ls /dev/video*` lists them; the MIPI camera of an STM32MP25 needs a pipeline"
    if not device.isOpened():
        raise HeatposeError(f"There is no camera '{source}'; {remedy}.")
    number = 0
    while (read := device.read())[0]:
        yield f"frame_{number:06d}.png", np.ascontiguousarray(read[1][..., ::-1])
        number += 1


def opencv(what: str) -> Any:
    """Imports OpenCV; `what` is the subject of the error message.

    Raises:
        HeatposeError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        text = f"{what} needs OpenCV for Python; on a PC `pip install opencv-python`."
        raise HeatposeError(text) from error
    return cv2


def show(drawn: Image) -> bool:
    """Shows an image in a window; returns False after q or Escape.

    Raises:
        HeatposeError: There is no display, or OpenCV is built without windows.
    """
    cv2 = opencv("A window")
    try:
        cv2.imshow("pose", drawn[..., ::-1])
        return (cv2.waitKey(1) & 0xFF) not in (ord("q"), 27)
    except cv2.error as error:
        text = "No window can be opened; leave out --window and save the images with --out."
        raise HeatposeError(text) from error


if __name__ == "__main__":
    main()
