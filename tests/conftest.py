"""Shared fixtures: rendered people, a small checkpoint that finds them, the command line."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from heatpose.cli import main
from heatpose.data.sources import CocoSource, SyntheticSource
from heatpose.data.synthetic.dataset import SyntheticSettings, build_synthetic
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from tests.serving import server  # noqa: F401  (a fixture of several folders)

if TYPE_CHECKING:
    import lightning

    from heatpose.data.datamodule import PoseData
    from heatpose.training.module import PoseModule
    from tests.exporting import Case

TRAIN_IMAGES, VAL_IMAGES = 40, 12
# several processes share the cores; torch, not imported yet, would start as many threads in each
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def load_module(path: Path, name: str | None = None) -> ModuleType:
    """A file as a module, known by its own name or another.

    A script, or a helper, which the importing mode `importlib` does not find.
    """
    name = name or path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load_module(Path(__file__).with_name("documented.py"))


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)`: a folder that `make` fills in the first of the test processes that
    requests it, while the others wait. Tests only read it.
    """
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = common / f"once_{name}", common / f"once_{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def synthetic_root(made_once: MadeOnce) -> Path:
    """A folder in COCO 2017 layout with 40 training and 12 evaluation images of rendered people.

    `SyntheticSource(str(synthetic_root.parent), 40, 12)` finds it there without rendering again.
    """
    settings = SyntheticSettings(train_images=TRAIN_IMAGES, val_images=VAL_IMAGES)
    (root,) = made_once(
        "synthetic", lambda folder: build_synthetic(folder, settings, progress=False)
    ).glob("*/")
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights.

    13 keypoints, width 0.35, 64 pixels, "trained" on `synthetic_root`.
    """
    # Imported here: tests of what needs no torch start without its seconds.
    import torch

    from heatpose.models.checkpoint import save_checkpoint
    from heatpose.models.movenet import MoveNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "best.ckpt"
    data = SyntheticSource(str(synthetic_root.parent), TRAIN_IMAGES, VAL_IMAGES).describe()
    save_checkpoint(
        path, MoveNet(13, width=0.35), ST_13, Preprocessing(64), model="tiny", data=data
    )
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data and models; the test is skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("HEATPOSE_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: '{folder}' is no folder (set HEATPOSE_SHARED)")
    return folder


@dataclass(frozen=True)
class TinyRun:
    """Makes the parts of a training run of seconds.

    13 keypoints, width 0.35, 64 pixels, three steps an epoch, on the CPU.

    Attributes:
        root: Of `synthetic_root`.
        folder: Of the run.
    """

    root: Path
    folder: Path

    def module(self, seed: int = 0, lr: float = 4e-3, **settings: Any) -> PoseModule:
        """Random weights of a seed; `settings` replace the module's arguments."""
        import torch

        from heatpose.models.losses import SpatialCrossEntropy
        from heatpose.models.movenet import MoveNet
        from heatpose.training.module import Optimization, PoseModule, warmup_cosine

        torch.manual_seed(seed)
        arguments: dict[str, Any] = {
            "network": MoveNet(13, 0.35),
            "loss": SpatialCrossEntropy(ST_13.sigmas),
            "skeleton": ST_13,
            "preprocessing": Preprocessing(64),
            "optimizer": partial(torch.optim.AdamW, lr=lr),
            "scheduler": warmup_cosine,
            "metadata": {"run": "tiny"},
        }
        arguments |= settings
        optimization = Optimization(arguments.pop("optimizer"), arguments.pop("scheduler"))
        return PoseModule(optimization=optimization, **arguments)

    def data(self, **settings: Any) -> PoseData:
        """The rendered people, loaded in this process."""
        from heatpose.data.augment import GeometricAugment
        from heatpose.data.datamodule import DataSettings, PoseData

        augment = settings.pop("augment", GeometricAugment())
        occlusion = settings.pop("occlusion", None)
        chosen = {"batch_size": 8, "workers": 0, "held_out": 0.3, "limit": 24, **settings}
        source = CocoSource(str(self.root))
        return PoseData(
            source, ST_13, Preprocessing(64), augment, DataSettings(**chosen), occlusion
        )

    def trainer(
        self,
        epochs: int,
        *callbacks: lightning.Callback,
        decay: float = 0.6,
        precision: Any = "32-true",
    ) -> lightning.Trainer:
        """Checkpoints and averaging as configured by default, and a table of what was logged."""
        import lightning
        from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
        from lightning.pytorch.loggers import CSVLogger

        from heatpose.training.callbacks import AveragedWeights
        from heatpose.training.fit import callbacks_of

        best = ModelCheckpoint(
            monitor="val/oks",
            mode="max",
            filename="best",
            save_top_k=1,
            enable_version_counter=False,
        )
        last = ModelCheckpoint(filename="last", enable_version_counter=False)
        configured = callbacks_of(
            {"best": best, "last": last, "ema": AveragedWeights(decay)}, self.folder
        )
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            precision=precision,
            gradient_clip_val=1.0,
            callbacks=[*callbacks, *configured],
            logger=CSVLogger(self.folder, name="", version="csv"),
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            default_root_dir=self.folder,
        )


@pytest.fixture
def tiny_run(synthetic_root: Path, tmp_path: Path) -> TinyRun:
    """A run in a folder of its own."""
    return TinyRun(synthetic_root, tmp_path / "run")


@dataclass
class Fitted:
    """A finished run.

    Attributes:
        run: Its parts.
        best: The checkpoint that `training.fit` answered.
        history: The network's parameters after each step, before averaging.
        logged: A row for each line of the logger's table, without empty cells.
    """

    run: TinyRun
    best: Path
    history: list[list[Any]] = field(default_factory=list)
    logged: list[dict[str, float]] = field(default_factory=list)


@pytest.fixture(scope="session")
def fitted(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A run of three epochs, three steps each."""
    import csv

    import lightning

    from heatpose.training.fit import fit

    run = TinyRun(synthetic_root, tmp_path_factory.mktemp("fitted"))
    result = Fitted(run, Path())

    class History(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            result.history.append([p.detach().clone() for p in pl_module.network.parameters()])

    module = run.module()
    result.best = fit(module, run.data(), run.trainer(3, History()), None)
    with (run.folder / "csv" / "metrics.csv").open() as table:
        result.logged = [
            {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(table)
        ]
    return result


@pytest.fixture(scope="session")
def case(synthetic_root: Path, made_once: MadeOnce) -> Case:
    """A bundle of a tiny network on rendered people, and its sources; tests only read it."""
    # Looked for, not imported: onnx2tf lifts the recursion limit of the whole process, and a deeply
    # nested file then ends it.
    if not all(
        find_spec(tool) for tool in ("onnx2tf", "tensorflow", "onnxruntime", "ai_edge_litert")
    ):
        pytest.skip("the export extra is not installed")
    from tests.exporting import make_case, read_case

    return read_case(
        synthetic_root, made_once("exported", lambda folder: make_case(synthetic_root, folder))
    )


@dataclass(frozen=True)
class Ran:
    """One call: exit status and what came out."""

    status: int
    out: str
    err: str


Heatpose = Callable[..., Ran]


@pytest.fixture
def heatpose(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Heatpose:
    """Calls the command in this process, as its console script does."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["heatpose", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, *capfd.readouterr())

    return call


@pytest.fixture
def hydra_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hydra keeps its state in singletons.

    What a test composes or starts in this process is forgotten afterwards.

    It also configures logging, which closes every handler of the process: absl's then closes the
    stream that pytest captures, and each later test of the process fails.
    """
    import logging

    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    monkeypatch.setattr(logging, "shutdown", lambda *handlers: None)
    state = Singleton.get_state()
    yield
    GlobalHydra.instance().clear()
    Singleton.set_state(state)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Real requests to other machines are refused at once; the user's cache folder, empty."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens at the port of "discard"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("heatpose.utils.transfer.time.sleep", lambda seconds: None)
    return tmp_path / "cache" / "heatpose"


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of a size, as `mount` takes it.

    The test is skipped where none can be mounted.
    """
    folders: list[Path] = []

    def mounted(size: str) -> Path:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mounted
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(disk_of: Callable[[str], Path]) -> Path:
    """A file system of 1 MB."""
    return disk_of("1m")


@pytest.fixture
def read_only(small_disk: Path) -> Path:
    """A file system that takes no writes, from root neither; it holds `kept.txt`."""
    (small_disk / "kept.txt").write_text("kept")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return small_disk
