"""The self-test that travels: on this machine, and on a Cortex-M55 in QEMU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from heatpose.deploy.c_sources import STEPS, golden, has_selftest
from heatpose.deploy.model import DeployModel, read_model
from heatpose.deploy.package import write_package
from heatpose.deploy.targets import load_target
from heatpose.pose import codec
from heatpose.runners import open_runner

SOURCES = ("heatpose_selftest.c", "postprocess.c")
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
# What both programs print: the test of the expected output, of one with a keypoint spoilt, and the
# pose's bits.
BODY = """
static signed char spoilt[HEATPOSE_SELFTEST_VALUES];
static uint32_t bits(float value) { union { float f; uint32_t u; } both; both.f = value; return both.u; }
static int same(const char *a, const char *b) {
  while (*a && *a == *b) { a++; b++; }
  return *a == *b;
}
static void check(void) {
  static const heatpose_shape shape = HEATPOSE_SHAPE;
  static heatpose_keypoint pose[HEATPOSE_KEYPOINTS];
  heatpose_selftest_report report;
  int32_t i, cells = HEATPOSE_MAP_ROWS * HEATPOSE_MAP_COLUMNS, result;
  result = heatpose_selftest(heatpose_selftest_output, &report);
  put((uint32_t)result); put((uint32_t)report.exact); put((uint32_t)report.differing);
  for (i = 0; i < HEATPOSE_SELFTEST_VALUES; i++) { spoilt[i] = heatpose_selftest_output[i]; }
  for (i = 0; i < cells; i++) { spoilt[i * HEATPOSE_KEYPOINTS + 5] = (signed char)(i == 0 ? 127 : -128); }
  result = heatpose_selftest(spoilt, &report);
  put((uint32_t)result); put((uint32_t)report.exact); put((uint32_t)same(report.name, heatpose_keypoint_names[5]));
  for (i = 0; i < HEATPOSE_SELFTEST_VALUES; i++) { spoilt[i] = heatpose_selftest_output[i]; }
  spoilt[0] = (signed char)(spoilt[0] > 0 ? spoilt[0] - 1 : spoilt[0] + 1);
  result = heatpose_selftest(spoilt, &report);
  put((uint32_t)result); put((uint32_t)report.exact); put((uint32_t)report.steps);
  heatpose_decode_int8((const int8_t *)heatpose_selftest_output, &shape, SCALE, ZERO_POINT, HEATPOSE_REFINED, pose);
  for (i = 0; i < HEATPOSE_KEYPOINTS; i++) { put(bits(pose[i].x)); put(bits(pose[i].y)); put(bits(pose[i].score)); }
}
"""
HOST = (
    '#include <stdio.h>\nstatic void put(uint32_t value) { printf("%08x\\n", (unsigned)value); }\n'
)
DEVICE = """
static uint32_t call(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm("r0") = operation;
  register const void *r1 __asm("r1") = argument;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static void put(uint32_t value) {
  static char line[10];
  int i;
  for (i = 0; i < 8; i++) { line[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15]; }
  line[8] = 10;
  call(4, line); /* SYS_WRITE0 */
}
"""
RESET = """
extern uint32_t stack_top;
void reset(void);
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_top, (const void *)reset};
__attribute__((noinline)) static void run(void) { check(); call(0x18, (const void *)0x20026); }
void reset(void) { *(volatile uint32_t *)0xe000ed88 |= 0xf00000; __asm volatile("dsb\\nisb"); run(); for (;;) {} }
"""
LINK = """
MEMORY { code (rx) : ORIGIN = 0, LENGTH = 512K  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 512K }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > code
  .ARM.exidx : { *(.ARM.exidx*) } > code
  .data : { *(.data*) } > ram
  .bss : { *(.bss*) *(COMMON) } > ram
}
stack_top = ORIGIN(ram) + LENGTH(ram);
"""


@pytest.fixture(params=["int8_out", "int8_pc"])
def package(
    request: pytest.FixtureRequest, tflite_files: dict[str, Path], tmp_path: Path
) -> tuple[Path, DeployModel]:
    """A package of a file with int8 heatmaps, and of one that dequantises them at its end."""
    pytest.importorskip("ai_edge_litert")
    source = tmp_path / "pose.tflite"
    shutil.copyfile(tflite_files[request.param], source)
    made = write_package(source, load_target("stm32n6"))
    return made.folder, made.model


def _program(folder: Path, model: DeployModel, head: str, tail: str) -> None:
    quantization = model.int8_output
    assert quantization is not None
    named = "HEATPOSE_OUTPUT" if model.output.dtype == "int8" else "HEATPOSE_OUTPUT_INT8"
    defines = f"#define SCALE {named}_SCALE\n#define ZERO_POINT {named}_ZERO_POINT\n"
    text = f'#include "heatpose_selftest.h"\n{defines}{head}{BODY}{tail}'
    (folder / "main.c").write_text(text)


def _expected(model: DeployModel) -> list[str]:
    """What both programs must print, with the pose as Python decodes it."""
    made = golden(model)
    pose = [f"{value:08x}" for value in made.pose.ravel().view(np.uint32).tolist()]
    results = [0, 1, 0, 6, 0, 1, 0, 0, 1]
    return [f"{value:08x}" for value in results] + pose


def _same(said: str, model: DeployModel) -> None:
    assert said.split() == _expected(model)


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("standard", ["c99", "gnu11"])
def test_on_this_machine(package: tuple[Path, DeployModel], level: str, standard: str) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc on this machine")
    folder, model = package
    _program(folder, model, HOST, "int main(void) { check(); return 0; }\n")
    command = [gcc, f"-std={standard}", *WARNINGS, level, "main.c", *SOURCES, "-o", "app", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    _same(
        subprocess.run([folder / "app"], capture_output=True, text=True, check=True).stdout, model
    )


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_on_a_cortex_m55(package: tuple[Path, DeployModel], level: str) -> None:
    """As ST's application is compiled: GNU C11, hardware floats.

    Fused multiply-adds are allowed.
    """
    compiler, machine = shutil.which("arm-none-eabi-gcc"), shutil.which("qemu-system-arm")
    if compiler is None or machine is None:
        pytest.skip(
            "no arm-none-eabi-gcc or no qemu-system-arm (Debian: gcc-arm-none-eabi,"
            " qemu-system-arm)"
        )
    folder, model = package
    _program(folder, model, DEVICE, RESET)
    (folder / "link.ld").write_text(LINK)
    core = ["-mcpu=cortex-m55", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-std=gnu11"]
    built = [compiler, *core, level, "-nostartfiles", "-T", "link.ld", "-specs=nosys.specs"]
    subprocess.run([*built, "main.c", *SOURCES, "-o", "app.elf", "-lm"], cwd=folder, check=True)
    command = [
        machine,
        "-M",
        "mps3-an547",
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "none",
        "-semihosting-config",
        "enable=on,target=native",
        "-kernel",
        "app.elf",
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    _same(ran.stdout + ran.stderr, model)


def test_the_header_is_c_plus_plus_too(package: tuple[Path, DeployModel]) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine")
    folder, _ = package
    (folder / "main.cpp").write_text(
        '#include "heatpose_selftest.h"\nint main() { return HEATPOSE_SELFTEST_STEPS - 8; }\n'
    )
    command = [compiler, "-std=c++11", *WARNINGS, "-Wno-unused-variable", "main.cpp", "-o", "cpp"]
    subprocess.run(command, cwd=folder, check=True)
    assert subprocess.run([folder / "cpp"]).returncode == STEPS - 8 == 0


def test_golden_values_are_the_runners(pose_tflite: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    model = read_model(pose_tflite)
    made, runner = golden(model), open_runner(pose_tflite, threads=1)
    maps = runner.heatmaps(made.image[None])
    np.testing.assert_array_equal(codec.decode(maps, "refined")[0], made.pose)
    quantization = model.int8_output
    assert quantization is not None and made.output.shape == model.output.shape[1:]
    real = (made.output.astype(np.int64) - quantization.zero_points[0]) * quantization.scales[0]
    np.testing.assert_allclose(real.transpose(2, 0, 1), maps[0], atol=1e-6)
    assert made.image.std() > 10 and len(np.unique(made.output)) > 20


def test_a_float_file_has_none(tflite_files: dict[str, Path]) -> None:
    board, linux = load_target("nucleo_n657x0"), load_target("stm32mp2")
    assert not has_selftest(read_model(tflite_files["float32"]), board)
    assert has_selftest(read_model(tflite_files["int8_pc"]), board)
    assert not has_selftest(read_model(tflite_files["int8_pc"]), linux)  # its application is Python
