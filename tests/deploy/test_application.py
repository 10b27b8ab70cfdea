"""ST's application: pairs of versions, and the script that puts a network into a checkout."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from heatpose.deploy.application import Application, release_of, starts
from heatpose.deploy.package import write_package
from heatpose.deploy.targets import load_target
from heatpose.errors import HeatposeError
from tests.conftest import load_module

Install = Callable[..., Path]
TABLE = [("2.0.0", "2.1.0"), ("2.1.1", "2.2.0"), ("2.2.0", "3.0.0"), ("2.3.1", "4.0.0")]
posix = pytest.mark.skipif(sys.platform == "win32", reason="shell scripts stand in")


def _application() -> Application:
    found = load_target("stm32n6").application
    assert found is not None
    return found


@pytest.mark.parametrize(("release", "core"), TABLE)
def test_pairs(release: str, core: str) -> None:
    application = _application()
    assert application.mismatch(core, release) is None and application.mismatch(core) is None
    for other, _ in TABLE:
        if other != release:
            assert "Possible mismatch in ll_aton" in str(application.mismatch(core, other))


def test_a_core_in_no_pair() -> None:
    application = _application()
    assert "2.3 with Core 4.0.0" in str(application.mismatch("4.0.1-20581"))
    assert "there is none" in str(application.mismatch("4.0.1-20581", "2.3.1"))
    assert starts("4.0.1", "4.0") and not starts("4.0.1", "4.0.0") and not starts("4.01", "4.0")
    with pytest.raises(HeatposeError, match="not in the table of pairs"):
        application.mismatch("4.0.0", "9.9")
    with pytest.raises(HeatposeError, match="--app"):
        release_of("nowhere")
    assert release_of("v2.3.1") == "2.3.1"


CONFIG_22 = """#ifndef APP_CONFIG
#define APP_CONFIG
#include "stai_network.h"
#define ASPECT_RATIO_CROP (1)
#define ASPECT_RATIO_FIT (2)
#define ASPECT_RATIO_MODE ASPECT_RATIO_CROP
#define POSTPROCESS_TYPE    POSTPROCESS_SPE_MOVENET_UI
#define COLOR_RGB (1)
#define COLOR_MODE    COLOR_RGB
#define AI_SPE_MOVENET_POSTPROC_HEATMAP_WIDTH        (STAI_NETWORK_IN_1_WIDTH/4)
#define AI_SPE_MOVENET_POSTPROC_HEATMAP_HEIGHT       (STAI_NETWORK_IN_1_HEIGHT/4)
#define AI_POSE_PP_CONF_THRESHOLD           (0.5f)
#define AI_POSE_PP_POSE_KEYPOINTS_NB        (5)
#define USE_BINDINGS
#define BINDINGS_NB (1)
#define BINDINGS const int bindings[BINDINGS_NB][3] = {\\
    { 1, 2, UTIL_LCD_COLOR_ORANGE },\\
}\\

extern const int bindings[BINDINGS_NB][3];
#define WELCOME_MSG_1         "other.tflite"
#endif
"""
CONFIG_21 = """#define ASPECT_RATIO_CROP (1)
#define ASPECT_RATIO_FIT (2)
#define ASPECT_RATIO_MODE ASPECT_RATIO_CROP
#define POSTPROCESS_TYPE    POSTPROCESS_SPE_MOVENET_UI
#define NN_WIDTH      (192)
#define NN_HEIGHT     (192)
#define AI_POSE_PP_CONF_THRESHOLD           (0.5f)
#define AI_POSE_PP_POSE_KEYPOINTS_NB        (5)
static const int bindings[][3] = {
    { 1, 2, UTIL_LCD_COLOR_ORANGE },
};
"""
MAKEFILE = """SIGNER = STM32_SigningTool_CLI
MODEL_DIR = ../../Model/{board}
.PHONY: all sign flash flash_weights
all:
\t@test -s $(MODEL_DIR)/network.c && touch build_all
sign:
\t$(SIGNER) -s -bin build/Project.bin -nk -t ssbl -hv 2.3 -o build/Project_sign.bin
flash:
\t@touch flashed
flash_weights: $(MODEL_DIR)/network_data.hex
\t@touch flashed_weights
"""


def _checkout(folder: Path, board: str, release: str, config: str) -> Path:
    """A checkout in small, with the Makefile's goals and the names of ST's."""
    application = folder / "Application" / board
    (application / "Inc").mkdir(parents=True)
    (folder / "Model" / board).mkdir(parents=True)
    (folder / "Release_Notes.md").write_text(
        f"## Update history\n\n### v{release} / x\n\n### v1.0.0\n"
    )
    (application / "Inc/app_config.h").write_text(config)
    (application / "Makefile").write_text(MAKEFILE.format(board=board))
    (folder / "Model" / board / "network.c").write_text("theirs")
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(params=["stm32n6", "nucleo_n657x0"])
def built(request: pytest.FixtureRequest, bundle: Path, install: Install) -> Path:
    """A package with a build by the stand-in for Core 4.0.0, without heatpose."""
    folder = write_package(bundle, load_target(request.param)).folder
    environment = {"PATH": "/usr/bin:/bin", "STEDGEAI_CORE_DIR": str(install(version="4.0.0"))}
    subprocess.run([folder / "run.sh"], env=environment, capture_output=True, check=True)
    return folder


def _run(
    folder: Path, *arguments: object, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    places = "/usr/bin:/bin" if path is None else f"{path}:/usr/bin:/bin"
    command = [sys.executable, "into_application.py", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env={"PATH": places}, capture_output=True, text=True)


@posix
def test_into_a_checkout_and_out_again(built: Path, tmp_path: Path) -> None:
    board = json.loads((built / "application.json").read_text())["folder"]
    checkout = _checkout(tmp_path / "app", board, "2.3.0", CONFIG_22)
    before = _files(checkout)
    shown = _run(built, checkout, "--dry-run")
    assert shown.returncode == 0 and "+#define ASPECT_RATIO_MODE ASPECT_RATIO_FIT" in shown.stdout
    assert _files(checkout) == before
    assert _run(built, checkout).returncode == 0
    config = (checkout / f"Application/{board}/Inc/app_config.h").read_text()
    assert (
        "#define AI_POSE_PP_POSE_KEYPOINTS_NB        (13)" in config
        and "(0.200000003f)" not in config
    )
    assert "#define AI_POSE_PP_CONF_THRESHOLD           (0.2f)" in config
    assert "#define AI_SPE_MOVENET_POSTPROC_HEATMAP_WIDTH        (16)" in config
    assert config.index("#define BINDINGS_NB (1") < config.index("extern const int bindings")
    make = (checkout / f"Application/{board}/Makefile").read_text()
    assert "-hv 2.3 --align -o" in make
    made = (checkout / f"Model/{board}/network.c").read_bytes()
    assert made == (built / "st_ai_output/network.c").read_bytes()
    assert _run(built, checkout, "--revision", "2.1").returncode == 0  # a second time
    assert "-hv 2.1 --align -o" in (checkout / f"Application/{board}/Makefile").read_text()
    assert _run(built, checkout, "--undo").returncode == 0 and _files(checkout) == before
    again = _run(built, checkout, "--undo")
    assert again.returncode == 1 and "no changes of this package" in again.stderr


@posix
def test_build_sign_and_flash_are_the_applications_own(built: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    board = json.loads((built / "application.json").read_text())["folder"]
    checkout = _checkout(tmp_path / "app", board, "2.3.1", CONFIG_22)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("STM32_SigningTool_CLI", f'echo "$@" > {tmp_path}/signed'),
        ("STM32_Programmer_CLI", "echo 'STM32CubeProgrammer version: 2.22.0'"),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    ran = _run(built, checkout, "--flash", path=tools)
    assert ran.returncode == 0, ran.stderr
    assert "--align" in (tmp_path / "signed").read_text()
    assert (checkout / f"Application/{board}/flashed").exists()
    assert (checkout / f"Application/{board}/flashed_weights").exists()
    shutil.rmtree(checkout)
    _checkout(checkout, board, "2.3.1", CONFIG_22)
    (tools / "STM32_Programmer_CLI").write_text(
        "#!/bin/sh\necho 'STM32CubeProgrammer version: 2.18.0'\n"
    )
    assert _run(built, checkout, "--build", path=tools).returncode == 0
    assert "--align" not in (tmp_path / "signed").read_text()  # older tools refuse it


@posix
def test_pairs_and_folders_that_do_not_fit_are_refused(built: Path, tmp_path: Path) -> None:
    board = json.loads((built / "application.json").read_text())["folder"]
    wrong = _checkout(tmp_path / "app", board, "2.2.0", CONFIG_22)
    before = _files(wrong)
    for folder, words in (
        (wrong, "cannot build a network of ST Edge AI Core 4.0.0"),
        (tmp_path, "git clone"),
    ):
        ran = _run(built, folder)
        assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr
    assert _files(wrong) == before
    (wrong / "Release_Notes.md").write_text("### V2.0.0 / April 2025\n")  # as it is written there
    ran = _run(built, wrong)
    assert ran.returncode == 1 and "decodes float heatmaps only" in ran.stderr
    assert release_of(str(wrong)) == "2.0.0"
    (wrong / "Release_Notes.md").write_text("### v2.2.0 / January 2026\n")
    (built / "st_ai_output/network_c_info.json").unlink()  # the text report has the version too
    ran = _run(built, wrong)
    assert ran.returncode == 1 and "cannot build a network of ST Edge AI Core 4.0.0" in ran.stderr
    shutil.rmtree(built / "st_ai_output")
    ran = _run(built, wrong)
    assert ran.returncode == 1 and "run ./run.sh first" in ran.stderr


def test_older_releases_have_an_array_of_bindings(bundle: Path) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    script = load_module(folder / "into_application.py")
    now = script.configured(CONFIG_21, (folder / "app_config_block.h").read_text())
    assert "#define NN_WIDTH (64)" in now and "{ 1, 2, UTIL_LCD_COLOR_ORANGE },\n};" not in now
    changed = [
        line for line in difflib.ndiff(CONFIG_21.split("\n"), now.split("\n")) if line[0] == "+"
    ]
    assert len([line for line in changed if "UTIL_LCD_COLOR_" in line]) >= 10
    with pytest.raises(script.Refused, match="paste app_config_block"):
        script.configured("#define X 1\n", "#define X 2\n")


@pytest.mark.parametrize("config", [CONFIG_22, CONFIG_21])
def test_the_edited_configuration_compiles(bundle: Path, tmp_path: Path, config: str) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc on this machine")
    folder = write_package(bundle, load_target("stm32n6")).folder
    script = load_module(folder / "into_application.py")
    block = (folder / "app_config_block.h").read_text()
    (tmp_path / "app_config.h").write_text(script.configured(config, block))
    (tmp_path / "stai_network.h").write_text("")
    colours = "".join(f"#define UTIL_LCD_COLOR_{name} 1\n" for name in ("ORANGE", "BLUE", "GREEN"))
    use = "#ifdef USE_BINDINGS\nBINDINGS;\n#endif\n"
    rows = "sizeof bindings / sizeof bindings[0]"
    (tmp_path / "main.c").write_text(
        f'{colours}#include "app_config.h"\n{use}#include <stdio.h>\nint main(void) {{ printf("%d'
        f' %d %d", (int)({rows}), bindings[0][0], AI_POSE_PP_POSE_KEYPOINTS_NB); return 0; }}\n'
    )
    command = [gcc, "-std=gnu11", "-Wall", "-Werror", "main.c", "-o", "app"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "app"], capture_output=True, text=True, check=True).stdout
    model = write_package(bundle, load_target("stm32n6")).model
    edges = model.skeleton.edge_indices
    assert said.split() == [str(len(edges)), str(edges[0][0]), "13"]


def test_weights_as_intel_hex_like_objcopy(bundle: Path, tmp_path: Path) -> None:
    objcopy = shutil.which("arm-none-eabi-objcopy") or shutil.which("objcopy")
    if objcopy is None:
        pytest.skip("no objcopy on this machine")
    script = load_module(
        write_package(bundle, load_target("stm32n6")).folder / "into_application.py"
    )
    content = bytes(range(256)) * 300 + b"end"
    (tmp_path / "in.bin").write_bytes(content)
    command = [
        objcopy,
        "-I",
        "binary",
        "in.bin",
        "--change-addresses",
        "0x70380000",
        "-O",
        "ihex",
        "out.hex",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    reference = (tmp_path / "out.hex").read_text().split()
    data = [line for line in script.intel_hex(content, 0x70380000).decode().split()]
    assert data == [line for line in reference if line[7:9] != "05"]  # a start address is left out
