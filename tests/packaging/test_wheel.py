"""The package as it is installed.

Source archive, wheel out of it, a fresh environment, an empty folder; the notebook runs there as
well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from heatpose.cli import COMMANDS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "notebooks/heatpose.ipynb"
TINY = (
    "experiment=quickstart resolution=64 model.width=0.35 trainer.max_epochs=1"
    " trainer.accelerator=cpu trainer.precision=32-true data.workers=0 data.batch_size=16"
    " data.source.train_images=40 data.source.val_images=12 data.source.root={data} quant=int8_pc"
    " quant.calibration_images=4 quant.limits.drop_pc=1000 quant.limits.drift_p50_px=1000"
)


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel.

    Attributes:
        environment: Its folder.
        built: Folder of the source archive and the wheel.
        folder: Where commands are run; empty at the beginning.
    """

    environment: Path
    built: Path
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """Of the commands: the environment's programs first, then those of the packages beside it.

        (onnxsim); nothing that leads to the checkout.
        """
        path = os.pathsep.join(
            [str(self.environment / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]]
        )
        left_out = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
        return {
            **{k: v for k, v in os.environ.items() if k not in left_out},
            "PATH": path,
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments: str) -> str:
        """What a command of the environment prints; it must succeed."""
        command = [str(self.environment / "bin" / arguments[0]), *arguments[1:]]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds both archives, and installs the wheel beside this environment's packages.

    So that nothing is downloaded again.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    place = Installed(
        *(tmp_path_factory.mktemp(name) for name in ("environment", "built", "empty"))
    )
    # the wheel is built out of the source archive
    subprocess.run([uv, "build", "--quiet", "--out-dir", place.built, REPOSITORY], check=True)
    (wheel,) = place.built.glob("*.whl")
    python = place.environment / "bin/python"
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, place.environment],
        check=True,
    )
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel], check=True
    )
    (packages,) = place.environment.glob("lib/python*/site-packages")
    # A .pth file inside that folder, such as the one that leads to the checkout, is not followed.
    (packages / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )
    return place


def test_the_package_is_the_installed_one(installed: Installed) -> None:
    code = (
        "import heatpose, heatpose.entries as e, torch; print(heatpose.__file__, e.conf_folder(),"
        " torch.__file__, sep='\\n')"
    )
    package, conf, torch = (Path(line) for line in installed.run("python", "-c", code).splitlines())
    assert package.is_relative_to(installed.environment) and conf.is_relative_to(
        installed.environment
    )
    assert not torch.is_relative_to(installed.environment)


def test_the_wheel_has_every_file_of_the_package_and_of_the_configuration(
    installed: Installed,
) -> None:
    (wheel,) = installed.built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")
        }
        licences = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    expected = set()
    for folder, place in (
        ("src/heatpose", "heatpose"),
        ("src/hydra_plugins", "hydra_plugins"),
        ("conf", "heatpose/conf"),
    ):
        files = (
            path
            for path in (REPOSITORY / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        )
        expected |= {
            f"{place}/{path.relative_to(REPOSITORY / folder).as_posix()}" for path in files
        }
    assert {name for name in names if not name.startswith("heatpose/released/")} == expected
    assert licences == {"LICENSE", "NOTICE", "THIRD_PARTY_NOTICES.md"}


def test_the_source_archive_is_the_project_and_nothing_else(installed: Installed) -> None:
    (archive,) = installed.built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {
        "train.py",
        "pyproject.toml",
        "conf/train.yaml",
        "tests/conftest.py",
        "docs/conf.py",
        "CHANGELOG.md",
        "notebooks/heatpose.ipynb",
    } <= names
    made = (
        "uv.lock",
        ".venv/",
        "runs/",
        "data_cache/",
        "docs/_build/",
        "docs/_generated/",
        "exports/",
    )
    of_the_project = ("exports/README.md", "exports/released/")
    assert not [n for n in names if n.startswith(made) and not n.startswith(of_the_project)]


def test_the_installed_command_trains_the_same_as_the_checkout(installed: Installed) -> None:
    """`heatpose train` of the wheel composes train.py's settings; both report errors equally."""
    assert "train" in installed.run("heatpose", "--help")
    assert "experiment: " in installed.run("heatpose", "train", "--help")
    settings = ["experiment=st_movenet_13kpt", "resolution=224", "--cfg", "job"]
    checkout = subprocess.run(
        [sys.executable, REPOSITORY / "train.py", *settings],
        check=True,
        capture_output=True,
        text=True,
    )
    assert installed.run("heatpose", "train", *settings) == checkout.stdout
    assert "checkpoint: a.ckpt" in installed.run(
        "heatpose", "export", "checkpoint=a.ckpt", "--cfg", "job"
    )


def test_the_doctor_looks_at_the_installed_package(installed: Installed) -> None:
    if "doctor" not in {command.__name__ for command in COMMANDS}:
        pytest.skip("this version has no heatpose doctor")
    done = subprocess.run(
        [installed.environment / "bin/heatpose", "doctor"],
        cwd=installed.folder,
        env=installed.variables,
        capture_output=True,
        text=True,
    )
    # 1: something is missing on this machine
    assert done.returncode in (0, 1) and done.stdout and "Traceback" not in done.stderr


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [
        cell
        for cell in cells
        if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"])
    ]
    assert len([cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]) == 1


def test_the_notebook_runs_with_the_installed_package(
    installed: Installed, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From an empty folder, with the kernel of the new environment.

    The settings come from the parameter cell alone.
    """
    if find_spec("onnx2tf") is None:  # looked for, not imported: it changes the whole process
        pytest.skip("the export extra is not installed")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kernel = tmp_path / "kernels/installed/kernel.json"
    kernel.parent.mkdir(parents=True)
    start = [
        str(installed.environment / "bin/python"),
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    kernel.write_text(
        json.dumps(
            {
                "argv": start,
                "display_name": "installed",
                "language": "python",
                "env": installed.variables,
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    for variable in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(variable, raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    parameters.source = (
        "SOURCE, NAME, IMAGES = '', 'tiny', 3\nSETTINGS ="
        f" '{TINY.format(data=synthetic_root.parent)}'"
    )
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="installed",
        resources={"metadata": {"path": str(installed.folder)}},
    ).execute()
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]
    assert len(images) == 3
    bundle = installed.folder / "exports/tiny"
    assert {path.suffix for path in bundle.glob("st_movenet_heatmaps_64*")} == {".onnx", ".tflite"}
    # the links at the end
    assert str(bundle.relative_to(installed.folder)) in str(notebook.cells[-2].outputs)
    assert {"runs", "exports", "drawn"} <= {path.name for path in installed.folder.iterdir()}
