"""The C decoder gives the Python codec's numbers, bit for bit.

The generated header compiles as C99 and as C++.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.deploy.c_sources import header_text
from heatpose.deploy.model import read_model
from heatpose.pose import codec

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
C_FOLDER = Path(str(resources.files("heatpose.deploy"))) / "c"
HOW = {"argmax": 0, "refined": 1}


class _Keypoint(ctypes.Structure):
    _fields_ = [("x", ctypes.c_float), ("y", ctypes.c_float), ("score", ctypes.c_float)]


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32) for name in ("rows", "columns", "keypoints", "channels_last")
    ]


Decode = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("no gcc on this machine")
    return found


@pytest.fixture(scope="module", params=["-O0", "-O2", "-O3"])
def decode(
    gcc: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Decode]:
    """The compiled decoder as a function of maps [K, H, W]."""
    library = tmp_path_factory.mktemp("c") / "postprocess.so"
    source = C_FOLDER / "postprocess.c"
    subprocess.run(
        [
            gcc,
            "-std=c99",
            *STRICT,
            request.param,
            "-shared",
            "-fPIC",
            str(source),
            "-o",
            str(library),
            "-lm",
        ],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))

    def call(
        maps: NDArray[np.float32] | NDArray[np.int8],
        how: str,
        channels_last: bool,
        scale: float = 1.0,
        zero_point: int = 0,
    ) -> NDArray[np.float32]:
        keypoints, rows, columns = maps.shape
        laid = np.ascontiguousarray(maps.transpose(1, 2, 0) if channels_last else maps)
        shape, poses = _Shape(rows, columns, keypoints, channels_last), (_Keypoint * keypoints)()
        if maps.dtype == np.int8:
            values = laid.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
            loaded.heatpose_decode_int8(
                values,
                ctypes.byref(shape),
                ctypes.c_float(scale),
                ctypes.c_int32(zero_point),
                HOW[how],
                poses,
            )
        else:
            loaded.heatpose_decode_float(
                laid.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                ctypes.byref(shape),
                HOW[how],
                poses,
            )
        return np.array([(p.x, p.y, p.score) for p in poses], np.float32)

    yield call


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_float_maps(decode: Decode, how: str, channels_last: bool) -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((48, 48), (56, 56), (5, 9), (1, 1), (2, 1)):
        maps = rng.normal(0, 3, (17, rows, columns)).astype(np.float32)
        maps[0] = 1.5  # a plateau: the first cell
        maps[1, 0, 0] = maps[2, -1, -1] = 50  # corners
        maps[3] = -np.inf
        maps[3, rows // 2, columns // 2] = 4  # neighbours without a value
        maps[4] = np.round(maps[4])  # ties
        _same_bits(decode(maps, how, channels_last), codec.decode(maps[None], how)[0])


@pytest.mark.parametrize(
    ("scale", "zero_point"), [(1 / 256, -128), (0.0939, 17), (1.0, 0), (0.1, 127)]
)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_int8_maps(
    decode: Decode, how: str, channels_last: bool, scale: float, zero_point: int
) -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(-128, 128, (13, 48, 48)).astype(np.int8)
    maps[1:] = np.minimum(maps[1:], 100)  # single peaks as well as ties
    maps[1:, 20, 30], maps[2, 20, 31] = 120, 119
    maps[3], maps[4] = -128, 127
    # as the runner dequantises
    real = ((maps.astype(np.int64) - zero_point) * np.float64(np.float32(scale))).astype(np.float32)
    _same_bits(
        decode(maps, how, channels_last, scale, zero_point), codec.decode(real[None], how)[0]
    )


def test_refinement_moves_a_keypoint_and_argmax_does_not(decode: Decode) -> None:
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 3, 4], maps[0, 3, 5] = 1.0, 0.5
    assert decode(maps, "argmax", True)[0].tolist() == [4.5 / 8, 3.5 / 8, 1.0]
    x, y, _ = decode(maps, "refined", True)[0]
    assert 4.5 / 8 < x < 5 / 8 and y == 3.5 / 8


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"), [("gcc", "-std=c99", ".c"), ("g++", "-std=c++11", ".cpp")]
)
def test_the_header_and_the_decoder_build_an_application(
    pose_tflite: Path, tmp_path: Path, compiler: str, standard: str, suffix: str
) -> None:
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"no {compiler} on this machine")
    model = read_model(pose_tflite)
    (tmp_path / "heatpose_model.h").write_text(header_text(model))
    for name in ("postprocess.h", "postprocess.c"):
        shutil.copy(C_FOLDER / name, tmp_path / name)
    main = tmp_path / f"main{suffix}"
    main.write_text(
        '#include "heatpose_model.h"\n#include "postprocess.h"\n#include <stdio.h>\nstatic int8_t'
        " maps[HEATPOSE_MAP_ROWS * HEATPOSE_MAP_COLUMNS * HEATPOSE_KEYPOINTS];\nint main(void) {\n "
        " heatpose_shape shape = HEATPOSE_SHAPE;\n  heatpose_keypoint pose[HEATPOSE_KEYPOINTS];\n "
        " maps[HEATPOSE_KEYPOINTS * 3 + 1] = 5;\n  heatpose_decode_int8(maps, &shape,"
        ' HEATPOSE_OUTPUT_SCALE, HEATPOSE_OUTPUT_ZERO_POINT, HEATPOSE_ARGMAX, pose);\n  printf("%s'
        ' %d %d %.9g %d %d %d %.6f %.9g", heatpose_keypoint_names[1], HEATPOSE_INPUT_SIZE,'
        " HEATPOSE_STRIDE, (double)HEATPOSE_INPUT_SCALE,\n         HEATPOSE_INPUT_ZERO_POINT,"
        " HEATPOSE_EDGES, heatpose_edges[0][1], (double)pose[1].x, (double)pose[1].score);\n "
        " return 0;\n}\n"
    )
    language = ["-x", "c++"] if suffix == ".cpp" else []
    program = tmp_path / "app"
    subprocess.run(
        [
            found,
            standard,
            *STRICT,
            *language,
            str(main),
            str(tmp_path / "postprocess.c"),
            "-o",
            str(program),
            "-lm",
        ],
        check=True,
    )
    words = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    input_scale, output = model.input.quantization, model.output.quantization
    assert input_scale is not None and output is not None
    assert words[:3] == [model.skeleton.keypoints[1], str(model.size), "4"]
    assert (
        np.float32(words[3]) == input_scale.scales[0]
        and int(words[4]) == input_scale.zero_points[0]
    )
    assert [int(words[5]), int(words[6])] == [
        len(model.skeleton.edges),
        model.skeleton.edge_indices[0][1],
    ]
    columns = model.grid[1]
    assert float(words[7]) == pytest.approx((2 * (3 % columns) + 1) / (2 * columns), abs=1e-6)
    assert np.float32(words[8]) == np.float32(
        (5 - int(output.zero_points[0])) * float(output.scales[0])
    )


def test_names_of_any_kind_become_c_strings(pose_tflite: Path) -> None:
    from dataclasses import replace

    model = read_model(pose_tflite)
    names = ['a "b"', "c\\d??/", "ñ", *model.skeleton.keypoints[3:]]
    text = header_text(
        replace(
            model,
            skeleton=replace(model.skeleton, keypoints=names, flip_pairs=(), edges=(), merge={}),
        )
    )
    assert (
        all(ord(c) < 128 for c in text)
        and r"\303\261" in text
        and "HEATPOSE_EDGES 0" in text
        and "heatpose_edges[" not in text
    )


def test_the_decoder_asks_for_no_heap() -> None:
    text = "".join((C_FOLDER / name).read_text() for name in ("postprocess.c", "postprocess.h"))
    assert not [word for word in ("malloc", "calloc", "realloc", "free(", "alloca") if word in text]
