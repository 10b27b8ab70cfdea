"""The deployment package: complete, self-contained, whole or absent; refused bundles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.deploy.package import write_package
from heatpose.deploy.targets import load_target
from heatpose.errors import HeatposeError
from heatpose.runners import open_runner

Install = Callable[..., Path]
REPOSITORY = Path(__file__).parents[2]


def test_n6(bundle: Path) -> None:
    package = write_package(bundle, load_target("stm32n6"))
    names = {path.name for path in package.folder.iterdir()}
    c_files = {
        "heatpose_model.h",
        "postprocess.c",
        "postprocess.h",
        "heatpose_selftest.c",
        "heatpose_selftest.h",
    }
    c_files |= {"app_config_block.h", "into_application.py", "application.json"}
    scripts = {"run.sh", "run.ps1", "README.md", "deploy.json", "estimate.json"}
    assert (
        names
        == {"pose_64_int8_pc.tflite", "user_neuralart.json", "stm32n6.mpool"} | scripts | c_files
    )
    message = json.loads((package.folder / "estimate.json").read_text())
    assert message["estimate"]["ms"]["value"] > 0 and "target_software_operator" in {
        finding["rule"] for finding in message["findings"]
    }
    profile = json.loads((package.folder / "user_neuralart.json").read_text())["Profiles"][
        "default"
    ]
    pools = json.loads((package.folder / profile["memory_pool"]).read_text())["memory"]["mempools"]
    assert {pool["name"]: (pool["offset"]["value"], pool["size"]["value"]) for pool in pools}[
        "npuRAM5"
    ] == ("0x342E0000", "448")
    record = json.loads((package.folder / "deploy.json").read_text())
    assert record["command"].startswith(
        "stedgeai generate --model pose_64_int8_pc.tflite --target stm32n6 --st-neural-art"
        " default@user_neuralart.json"
    )
    for name, digest in record["files"].items():
        assert hashlib.sha256((package.folder / name).read_bytes()).hexdigest() == digest
    readme = (package.folder / "README.md").read_text()
    words = ("0x70380000", "0x70100000", "MX66UW1G45G", "Not verified", "FSBL/ai_fsbl.hex")
    words += ("--align", "-hv 2.1", "fuses", "| 2.3.x | 4.0.0 |", "USB-C to USB-C")
    assert not [word for word in (record["command"], *words) if word not in readme]
    assert (
        f"{message['estimate']['ms']['value']:.1f} [" in readme
        and "outside the published networks" in readme
    )
    assert "--output-data-type int8" in record["command"]
    assert "heatpose_decode_int8(output, &shape, HEATPOSE_OUTPUT_INT8_SCALE" in readme


def test_mp2_takes_the_per_tensor_file_and_its_own_command(bundle: Path) -> None:
    package = write_package(bundle, load_target("stm32mp2"))
    command = list(package.command or ())
    assert (
        command[:5] == ["generate", "--model", "pose_64_int8_pt.tflite", "--target", "stm32mp25"]
        and "--st-neural-art" not in command
    )
    readme = (package.folder / "README.md").read_text()
    assert (
        "2.0 to 2.2" in readme
        and "heatpose deploy BUNDLE --target stm32mp2 --import FOLDER" in readme
        and not (package.folder / "stm32n6.mpool").exists()
    )


def test_mp1_needs_no_tool(bundle: Path) -> None:
    package = write_package(bundle, load_target("stm32mp1"))
    assert (
        package.command is None
        and not (package.folder / "run.sh").exists()
        and package.model_name == "pose_64_int8_pc.tflite"
    )
    assert "result.json" not in (package.folder / "README.md").read_text()


def test_the_readme_decodes_the_boards_output(bundle: Path, tflite_files: dict[str, Path]) -> None:
    target = load_target("stm32n6")
    turned = write_package(bundle, target)  # the tool takes the last DEQUANTIZE out
    assert (
        "heatpose_decode_int8(output, &shape, HEATPOSE_OUTPUT_INT8_SCALE,"
        " HEATPOSE_OUTPUT_INT8_ZERO_POINT" in (turned.folder / "README.md").read_text()
    )
    content = tflite_files["int8_out"].read_bytes()
    (bundle / "pose_64_int8_pc.tflite").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["pose_64_int8_pc.tflite"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    own = write_package(bundle, target)
    assert (
        "heatpose_decode_int8(output, &shape, HEATPOSE_OUTPUT_SCALE, HEATPOSE_OUTPUT_ZERO_POINT"
        in (own.folder / "README.md").read_text()
    )


def test_rejected_artefacts_are_refused_and_go_on_request(bundle: Path) -> None:
    (bundle / "pose_64_int8_pt.tflite").rename(bundle / "pose_64_int8_pt.rejected.tflite")
    target = load_target("stm32mp2")
    with pytest.raises(
        HeatposeError,
        match=r"acceptance check.*Two operators are not as expected\..*--allow-rejected",
    ):
        write_package(bundle, target)
    assert not (bundle / "stm32mp2").exists()
    package = write_package(bundle, target, allow_rejected=True)
    assert (package.folder / "pose_64_int8_pt.tflite").is_file() and "an acceptance check" in (
        package.folder / "README.md"
    ).read_text()
    assert json.loads((package.folder / "deploy.json").read_text())["rejected"] is True


def test_other_refusals(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="not a bundle"):
        write_package(tmp_path, load_target("stm32n6"))
    (bundle / "pose_64_int8_pt.tflite").unlink()
    with pytest.raises(HeatposeError, match=r"no int8_pt file.*quant=int8_pt"):
        write_package(bundle, load_target("stm32mp2"))
    with (bundle / "pose_64_int8_pc.tflite").open("ab") as file:
        file.write(b"x")
    with pytest.raises(HeatposeError, match="is not the file that was exported"):
        write_package(bundle, load_target("stm32n6"))
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(HeatposeError, match="export the bundle again"):
        write_package(bundle, load_target("stm32n6"))


@pytest.mark.skipif(
    os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="the superuser may write anywhere"
)
def test_a_bundle_that_cannot_be_written(bundle: Path) -> None:
    bundle.chmod(0o555)
    with pytest.raises(HeatposeError, match="cannot be written"):
        write_package(bundle, load_target("stm32n6"))


def test_an_older_hand_off_is_replaced_whole(bundle: Path) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    (folder / "left_over.txt").write_text("x")
    write_package(bundle, load_target("stm32n6"))
    assert not (folder / "left_over.txt").exists() and not [
        path for path in bundle.iterdir() if path.name.startswith(".")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize("behaviour", [{}, {"mode": "status"}])
def test_run_sh_builds_without_heatpose(
    bundle: Path, install: Install, behaviour: dict[str, str]
) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    ran = subprocess.run(
        [folder / "run.sh"],
        env={"PATH": "/usr/bin:/bin", "STEDGEAI_CORE_DIR": str(install(**behaviour))},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert (folder / "st_ai_output/network_c_info.json").is_file() and (
        "status 255" in ran.stderr
    ) == bool(behaviour)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_run_sh_leaves_no_product_of_an_earlier_run(bundle: Path, install: Install) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    made = [
        folder / "st_ai_output/network.c",
        folder / "network_data.bin",
        folder / "network_data.hex",
    ]
    for mode, status in (("", 0), ("E103_4", 1)):
        environment = {
            "PATH": "/usr/bin:/bin",
            "STEDGEAI_CORE_DIR": str(install(f"tool{mode}", mode=mode)),
        }
        ran = subprocess.run([folder / "run.sh"], env=environment, capture_output=True, text=True)
        assert ran.returncode == status, ran.stderr
        assert made[0].is_file() == made[1].is_file() == (status == 0)
        made[2].write_text("an earlier run's")  # by another machine, which has objcopy
    assert not made[2].is_file() or made[2].read_text() == "an earlier run's"
    (folder / "network_data.hex").write_text("old")
    subprocess.run([folder / "run.sh"], env=environment, capture_output=True)
    assert not made[2].exists() and "st_ai_output/network.c was not made" in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(("version", "profile"), [("2.2.0", "core_2"), ("4.0.0", "default")])
def test_run_sh_takes_the_profile_of_the_tools_version(
    bundle: Path, install: Install, version: str, profile: str
) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    options = json.loads((folder / "user_neuralart.json").read_text())["Profiles"]
    assert (
        "--mvei" in options["core_2"]["options"] and "--mvei" not in options["default"]["options"]
    )
    kept = [name for name in options if name != profile]
    for name in kept:
        del options[name]  # the stand-in refuses a profile that is not there
    (folder / "user_neuralart.json").write_text(json.dumps({"Profiles": options}))
    environment = {"PATH": "/usr/bin:/bin", "STEDGEAI_CORE_DIR": str(install(version=version))}
    ran = subprocess.run([folder / "run.sh"], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_run_sh_for_mp2_ends_with_one_file_or_none(bundle: Path, install: Install) -> None:
    folder = write_package(bundle, load_target("stm32mp2")).folder
    made = folder / "st_ai_output/pose_64_int8_pt.nb"
    # the last must not take the file of the one before for its own
    for mode, status in (("", 0), ("own_folder", 0), ("nothing", 1)):
        environment = {
            "PATH": "/usr/bin:/bin",
            "STEDGEAI_CORE_DIR": str(install(f"tool{mode}", version="2.2.0", mode=mode)),
        }
        ran = subprocess.run([folder / "run.sh"], env=environment, capture_output=True, text=True)
        assert ran.returncode == status and made.is_file() == (status == 0), (mode, ran.stderr)
    assert "pose_64_int8_pt.nb was not made" in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_run_sh_without_a_tool_or_with_an_odd_path(bundle: Path, tmp_path: Path) -> None:
    folder = write_package(bundle, load_target("stm32n6")).folder
    ran = subprocess.run(
        [folder / "run.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert ran.returncode == 1 and "STEDGEAI_CORE_DIR" in ran.stderr
    shutil.copytree(folder, tmp_path / "ñ")
    ran = subprocess.run(
        [tmp_path / "ñ/run.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert ran.returncode == 1 and "ASCII" in ran.stderr


@pytest.mark.parametrize("decode", ["argmax", "refined"])
def test_the_board_app_runs_on_a_pc_with_the_results_of_heatpose(
    bundle: Path, synthetic_root: Path, tmp_path: Path, decode: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = write_package(bundle, load_target("stm32mp2")).folder
    moved = shutil.copytree(folder, tmp_path / "board")  # it needs nothing beside itself
    photo = sorted((synthetic_root / "val2017").iterdir())[0]
    model, out = moved / "pose_64_int8_pt.tflite", tmp_path / "poses"
    command = [
        sys.executable,
        "-P",
        "pose_app.py",
        model.name,
        photo,
        "--out",
        out,
        "--decode",
        decode,
        "--threads",
        "1",
    ]
    ran = subprocess.run(
        command,
        cwd=moved,
        env={**os.environ, "PYTHONPATH": str(moved)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "13 keypoints" in ran.stdout
    message = np.array(json.loads((out / "poses.json").read_text())["poses"][photo.name])
    runner = open_runner(bundle / "pose_64_int8_pt.tflite", threads=1)
    assert runner.preprocessing is not None
    image = runner.preprocessing.resize(np.asarray(Image.open(photo).convert("RGB")))
    np.testing.assert_allclose(message, runner.predict(image[None], decode)[0], atol=1e-6)
    assert Image.open(out / f"{photo.stem}.png").size == Image.open(photo).size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.tflite", "x.png"], "none.tflite"),
        (["pose.nb", "x.png"], "stai_mpu"),
        (["MODEL", "none.png"], "none.png"),
        (["MODEL", "heatpose"], "no images"),
    ],
)
def test_the_board_app_refuses_in_a_sentence(
    bundle: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = write_package(bundle, load_target("stm32mp2")).folder
    (folder / "pose.nb").write_bytes(b"VPMN")
    given = [argument.replace("MODEL", "pose_64_int8_pt.tflite") for argument in arguments]
    ran = subprocess.run(
        [sys.executable, "pose_app.py", *given], cwd=folder, capture_output=True, text=True
    )
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert (
        ran.returncode == 1
        and len(errors) == 1
        and words in errors[0]
        and "Traceback" not in ran.stderr
    )
