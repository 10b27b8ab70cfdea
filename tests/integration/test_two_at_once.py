"""Two processes on the same run or bundle, and names that Hydra's command line must quote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.bundles.bundle import verify_bundle
from heatpose.data.image_cache import ImageCache

pytestmark = pytest.mark.slow


@pytest.fixture
def holder(place: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the run `quickstart` and exports the bundle `quickstart`.

    As far as others can see.
    """
    code = (
        "import sys, time; from pathlib import Path; from heatpose.utils.files import"
        " only_one\nwith only_one(Path(sys.argv[1]), 'quickstart', ''), only_one(Path(sys.argv[2]),"
        " 'quickstart', ''):\n    print('held', flush=True); time.sleep(600)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(place.folder / "runs"),
        str(place.folder / "exports"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_of_two_is_refused_and_a_killed_one_does_not_block(
    place: Any, holder: subprocess.Popen[str], tiny_checkpoint: Path
) -> None:
    train = [*place.tiny, "export=false", "evaluate=false"]
    place.run("train", *train).fails_with("The run", "another process", "name=")
    export = [
        f"checkpoint={tiny_checkpoint}",
        "name=quickstart",
        "quant.artefacts=[]",
        "quant.calibration_images=4",
    ]
    place.run("export", *export).fails_with("The bundle", "another process")
    assert (
        not list(place.folder.rglob("*.ckpt"))
        and not (place.folder / "exports/quickstart").exists()
    )
    # as a killed export leaves it
    (place.folder / "exports/.quickstart.abcd1234/new").mkdir(parents=True)
    # of another bundle, which may be in the making
    (place.folder / "exports/.quickstart2.abcd1234").mkdir()
    holder.kill()
    holder.wait()
    ran = place.run("export", *export)
    assert ran.status == 0, ran.err
    left = sorted(path.name for path in (place.folder / "exports").iterdir() if path.is_dir())
    assert left == [".quickstart2.abcd1234", "quickstart"]


def test_two_trainings_at_once_share_a_cache(place: Any) -> None:
    """Two trainings start together: one builds, one waits, and both reach the same weights."""
    cache = place.folder / "caches"
    train = [
        *place.tiny,
        f"data.cache={cache}",
        "data.module.limit=16",
        "export=false",
        "evaluate=false",
    ]
    started = [place.start("train", *train, f"name={name}") for name in ("one", "other")]
    assert [process.wait() for process in started] == [0, 0]
    (only,) = (path for path in cache.iterdir() if path.is_dir())
    assert ImageCache(only).rows
    one, other = (
        torch.load(place.folder / "runs" / name / "checkpoints/last.ckpt", weights_only=True)[
            "state_dict"
        ]
        for name in ("one", "other")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_odd_names_of_folders_runs_and_bundles(place: Any, tmp_path: Path) -> None:
    odd, name = tmp_path / "-a 'b' \"c\" $(touch pwned); ünï 人", "-net 'x' ünï"
    odd.mkdir()

    def quoted(value: object) -> str:
        return "'" + str(value).replace("'", "\\'") + "'"

    places = [
        f"runs={quoted(odd / 'runs')}",
        f"exports={quoted(odd / 'exports')}",
        f"name={quoted(name)}",
    ]
    data = [o for o in place.tiny if not o.startswith("data.source.root")] + [
        f"data.source.root={quoted(odd / 'data')}"
    ]
    (odd / "data").symlink_to(place.data.parent)
    script = str(Path(__file__).parents[2] / "train.py")
    ran = place.warm.run([script, *data, *places, "export=false"], place.folder)
    assert ran.status == 0, ran.err
    best = odd / "runs" / name / "checkpoints" / "best.ckpt"
    export = script.replace("train.py", "export.py")
    ran = place.warm.run(
        [
            export,
            f"checkpoint={quoted(best)}",
            *places,
            "quant.artefacts=[]",
            "quant.calibration_images=4",
        ],
        place.folder,
    )
    assert ran.status == 0, ran.err
    assert not verify_bundle(odd / "exports" / name).findings
    assert not [path for path in tmp_path.rglob("*") if path.name == "pwned"]


@pytest.mark.skipif(sys.platform != "linux", reason="full disks are those of Linux here")
def test_a_read_only_folder_of_runs_is_reported_before_anything_slow(place: Any) -> None:
    ran = place.run("train", *place.tiny, "runs=/proc/runs", "exports=/proc/exports")
    ran.fails_with("/proc", "another folder")
