"""`pose_app.py` with stand-ins for ST's runtime: their real signatures, defaults and errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.deploy.package import write_package
from heatpose.deploy.targets import load_target

# As ST's package: hardware acceleration is the default, and a board without NPU refuses it.
STAI_MPU = """
import os, sys
class stai_mpu_network:
    def __init__(self, model_path, use_hw_acceleration=True):
        print(f"stai_mpu hw={use_hw_acceleration}", file=sys.stderr)
        if use_hw_acceleration and os.environ["NPU"] == "no":
            raise RuntimeError("NPU acceleration is not available on your target please turn off hw_acceleration")
        if os.environ.get("REFUSES"):
            raise RuntimeError("Failed to load the model")
        from ai_edge_litert.interpreter import Interpreter
        self._own = Interpreter(model_path=model_path.replace(".nb", ".tflite"))
        self._own.allocate_tensors()
        self._in, self._out = self._own.get_input_details()[0], self._own.get_output_details()[0]
    def get_input_infos(self): return [_Info(self._in)]
    def get_output_infos(self): return [_Info(self._out)]
    def set_input(self, index, data): self._own.set_tensor(self._in["index"], data)
    def run(self): self._own.invoke()
    def get_output(self, index): return self._own.get_tensor(self._out["index"])
class _Info:
    def __init__(self, entry): self._entry = entry
    def get_dtype(self): return self._entry["dtype"]
    def get_shape(self): return self._entry["shape"]
    def get_scale(self): return self._entry["quantization"][0]
    def get_zero_point(self): return self._entry["quantization"][1]
"""
# OpenCV with a camera of two frames, for a number, a device or a pipeline.
CV2 = """
import numpy as np, sys
CAP_GSTREAMER = 1800
class error(Exception): pass
class VideoCapture:
    def __init__(self, source, api=0):
        print(f"camera {source!r} {api}", file=sys.stderr)
        self._left = 0 if source in (9, "/dev/none") else 2
        self._open = self._left > 0
    def isOpened(self): return self._open
    def read(self):
        self._left -= 1
        return self._left >= 0, np.zeros((48, 64, 3), np.uint8)
def imshow(name, image):
    import os
    if os.environ.get("HEADLESS"): raise error("The function is not implemented.")
    print("shown", image.shape, file=sys.stderr)
def waitKey(ms): return -1
"""


@pytest.fixture
def board(bundle: Path, tmp_path: Path) -> Path:
    """A package for the STM32MP1 and stand-ins beside it."""
    pytest.importorskip("ai_edge_litert")
    folder = write_package(bundle, load_target("stm32mp1")).folder
    (folder / "stai_mpu.py").write_text(STAI_MPU)
    (folder / "cv2.py").write_text(CV2)
    shutil.copyfile(folder / "pose_64_int8_pc.tflite", folder / "pose.tflite")
    shutil.copyfile(folder / "pose.tflite", folder / "pose.nb")
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "x.png")
    return folder


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "pose_app.py", *arguments, "--threads", "1"]
    given = {**os.environ, "NPU": "no", **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)


def test_a_board_without_npu_is_not_asked_for_it(board: Path) -> None:
    ran = _run(board, "pose.tflite", "x.png")
    assert ran.returncode == 0, ran.stderr
    assert "stai_mpu hw=False" in ran.stderr and "hw=True" not in ran.stderr
    assert ran.stdout.startswith("pose.tflite runs on the processor through stai_mpu.")


def test_a_runtime_that_refuses_leaves_the_next_one(board: Path) -> None:
    ran = _run(board, "pose.tflite", "x.png", REFUSES="yes")
    assert (
        ran.returncode == 0 and "a runtime cannot load it (Failed to load the model)" in ran.stdout
    )
    assert "runs on the processor through LiteRT" in ran.stdout and "Traceback" not in ran.stderr


def test_an_nb_runs_on_the_npu_or_is_refused_in_a_sentence(board: Path) -> None:
    ran = _run(board, "pose.nb", "x.png", NPU="yes")
    assert ran.returncode == 0 and "runs on the NPU through stai_mpu" in ran.stdout
    ran = _run(board, "pose.nb", "x.png")
    assert ran.returncode == 1 and "turn off hw_acceleration" in ran.stderr
    assert "use the .tflite file" in ran.stderr and "Traceback" not in ran.stderr


CREATE = (
    "void *tflite_plugin_create_delegate(char **k, char **v, unsigned long n, void *e) { return"
    " 0; }"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a shared library of Linux")
@pytest.mark.parametrize(
    "code", ["int nothing;", f"{CREATE} void tflite_plugin_destroy_delegate(void *d) {{}}"]
)
def test_an_mp2_tries_the_delegate_and_continues_without_it(
    bundle: Path, board: Path, tmp_path: Path, code: str
) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc on this machine")
    described = json.loads((board / "pose_model.json").read_text())
    assert described["npu_tflite"] is False
    (board / "pose_model.json").write_text(json.dumps({**described, "npu_tflite": True}))
    library = tmp_path / "lib"
    library.mkdir()
    (library / "x.c").write_text(f"{code}\n")
    made = library / "libvx_delegate.so.2"  # no delegate, or one that refuses
    subprocess.run([gcc, "-shared", "-fPIC", library / "x.c", "-o", made], check=True)
    ran = _run(board, "pose.tflite", "x.png", LD_LIBRARY_PATH=str(library))
    assert ran.returncode == 0, ran.stderr
    assert "a runtime cannot load it" in ran.stdout and "through stai_mpu" in ran.stdout
    own = write_package(bundle, load_target("stm32mp2")).folder
    assert json.loads((own / "pose_model.json").read_text())["npu_tflite"] is True


@pytest.mark.parametrize(
    ("camera", "asked"),
    [
        ("0", "camera 0 0"),
        ("/dev/video3", "camera '/dev/video3' 0"),
        (
            "libcamerasrc ! videoconvert ! appsink",
            "camera 'libcamerasrc ! videoconvert ! appsink' 1800",
        ),
    ],
)
def test_cameras_and_the_window(board: Path, camera: str, asked: str) -> None:
    ran = _run(board, "pose.tflite", "--camera", camera, "--window")
    assert ran.returncode == 0, ran.stderr
    assert asked in ran.stderr and ran.stderr.count("shown (48, 64, 3)") == 2
    assert ran.stdout.count("keypoints") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--camera", "9"], "ls /dev/video*"), (["--camera", "0", "--window"], "leave out --window")],
)
def test_no_camera_and_no_display(board: Path, arguments: list[str], words: str) -> None:
    ran = _run(board, "pose.tflite", *arguments, HEADLESS="1")
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr


def test_the_threshold_is_the_bundles(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["score_threshold"] = {"value": 0.35, "source": "recall of 0.9 on held-out images"}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    linux = write_package(bundle, load_target("stm32mp1")).folder
    assert json.loads((linux / "pose_model.json").read_text())["threshold"] == 0.35
    folder = write_package(bundle, load_target("stm32n6")).folder
    assert "#define HEATPOSE_SCORE_THRESHOLD 0.35f" in (folder / "heatpose_model.h").read_text()
    assert (
        "AI_POSE_PP_CONF_THRESHOLD           (0.35f)" in (folder / "app_config_block.h").read_text()
    )
    for name in ("heatpose_model.h", "app_config_block.h", "README.md"):
        assert "recall of 0.9 on held-out images" in (folder / name).read_text()
