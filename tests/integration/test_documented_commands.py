"""The commands of the pages have the documented effect.

They run on rendered people and a tiny bundle, where that is possible.

Every command is also parsed or composed (tests/test_docs.py), those below that are not run here as
well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import documented
import pytest
from documented import REPOSITORY, Documented

from tests.data.formats import writers

pytestmark = pytest.mark.slow

NOT_RUN = {
    r"heatpose doctor .*--run": "takes minutes; tests/doctor/test_trial.py runs it",
    r"heatpose deploy .*--run": "needs ST Edge AI Core; tests/deploy runs it with a stand-in",
    r"heatpose label ": (
        "a network of a few minutes labels nothing; tests/label has a teacher that does"
    ),
    r"heatpose (predict (photo\.jpg|0)$|compare st_movenet|deploy st_movenet|half |release )": (
        "needs a released network or a trained one; tests/export/test_release.py has such networks"
    ),
    r"heatpose deploy .*--import": (
        "needs the output of a build made elsewhere; tests/deploy/test_importing.py has such"
        " outputs"
    ),
    r"(train|export) .*(init\.path=|data\.root=(COCO|my_\w+))": (
        "starts from Google's weights, on COCO or labels of one's own; composed here, "
        "and whole runs of this kind are in tests/integration"
    ),
    r"train -m experiment=st_": (
        "whole trainings, searches, clusters; test_sweep.py runs small ones, a cluster's jobs"
        " locally; test_search.py searches"
    ),
    r"export checkpoint=": "exports again, seconds each; test_train_export_evaluate.py does so",
    r"train .*experiment=quickstart": (
        "the fixture `quickstart` runs it with tiny settings; sweeps are in test_sweep.py"
    ),
}
"""Commands of the project's own programs that are parsed or composed only, and why."""

ELSEWHERE = {
    r"pip install uv": "how this environment is made",
    r"pip install dist/": "tests/packaging installs the wheel",
    r"uv build": "tests/packaging builds it",
    r"uv sync": "how this environment is made",
    r"uv run (ruff|mypy|lint-imports|pytest|sphinx-build)": ".ci/run runs it",
    r"uv run python docs/_ext/licences\.py": (
        "tests/packaging/test_licences.py checks what it writes"
    ),
    r"uv run tensorboard": "a server, which does not end",
    r"python benchmarks/": "measurements of hours; their results are data",
    r"uv run python tests/faults/": "campaigns of hours; tests/faults runs a little of each",
    r"uv (lock|run --no-project python \.ci/hashes\.py)": (
        "asks a registry; tests/packaging/test_supply_chain.py runs the comparison on a lock of"
        " its own"
    ),
    r"docker": "needs a container engine; tests/packaging/test_container.py reads the file",
    r"python3 pose_app\.py": "tests/deploy runs it",
}
"""Commands of other programs."""

LIKE = (
    (
        re.compile(r"exports/\w+/[\w*]+_(int8_pc|int8_pt|float32)\.tflite"),
        r"exports/quickstart/st_movenet_heatmaps_64_\1.tflite",
    ),
    (re.compile(r"exports/\w+(?=$|/$)"), "exports/quickstart"),
    (re.compile(r"^SOURCE\.\.\.$"), "photos/"),
    (
        re.compile(r"runs/\w+/checkpoints/\w+\.ckpt|^MODEL$"),
        "runs/quickstart/checkpoints/best.ckpt",
    ),
    (
        re.compile(r"^(MODEL|movenet_lightning|lightning)\.tflite$"),
        "exports/quickstart/st_movenet_heatmaps_64_int8_pc.tflite",
    ),
)
"""What stands in a page, and what is here instead of it."""


def _stands_for(argument: str) -> str:
    for pattern, instead in LIKE:
        argument = pattern.sub(instead, argument)
    return argument


def _reason(command: Documented, reasons: dict[str, str]) -> list[str]:
    return [pattern for pattern in reasons if re.match(pattern, str(command))]


@pytest.fixture(scope="module")
def folder(quickstart: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with everything that the pages use: COCO, photographs, a run, a bundle."""
    folder = tmp_path_factory.mktemp("documented")
    data = quickstart.place.data
    (folder / "exports").mkdir()
    shutil.copytree(quickstart.bundle, folder / "exports/quickstart")
    for name, what in {
        "runs": quickstart.place.folder / "runs",
        "COCO": data,
        "mine": data,
        "val2017": data / "val2017",
        "conf": REPOSITORY / "conf",
        "examples": REPOSITORY / "examples",
        "val.json": data / "annotations/person_keypoints_val2017.json",
    }.items():
        os.symlink(what, folder / name)
    (folder / "DEV").mkdir()
    os.symlink(data / "val2017", folder / "DEV/val2017")
    os.symlink(folder / "val.json", folder / "DEV/person_keypoints_val2017.json")
    for part in ("train", "val"):
        labels = json.loads((data / f"annotations/person_keypoints_{part}2017.json").read_text())
        writers.yolo(labels, data / f"{part}2017", folder / "my_yolo", part)
        writers.st_model_zoo(labels, data / f"{part}2017", folder / "my_st_zoo", part)
    for tool in ("roboflow", "cvat", "label_studio", "labelme"):
        getattr(writers, tool)(labels, data / "val2017", folder / f"my_{tool}")
    (folder / "photos").mkdir()
    for image in islice(sorted((data / "val2017").iterdir()), 2):
        os.symlink(image, folder / "photos" / image.name)
    (folder / "boards").mkdir()
    shutil.copy(REPOSITORY / "conf/target/stm32n6.yaml", folder / "boards/my_n6_board.yaml")
    return folder


def test_every_command_runs(folder: Path, quickstart: Any) -> None:
    """One after the other, as a reader of the pages would.

    Those that come to the same thing once.
    """
    command_line = str(REPOSITORY / "src/heatpose/cli/__main__.py")
    wanted = [
        command
        for command in documented.commands("heatpose", "train", "export")
        if not _reason(command, NOT_RUN)
    ]
    different = {tuple(map(_stands_for, command.arguments)): command for command in wanted}
    failed = {}
    for arguments, command in different.items():
        program = (
            [command_line] if command.program == "heatpose" else [command_line, command.program]
        )
        ran = quickstart.place.warm.run([*program, *arguments], folder)
        if ran.status != 0:
            failed[f"{command.page}: {command}"] = ran.err
    assert len(different) >= 12
    assert not failed, (
        "put what such a command needs into `folder` or `LIKE`, or say in NOT_RUN why it cannot"
        " be run"
    )
    # And they did something.
    assert (folder / "people.png").stat().st_size > 10_000 and len(
        list((folder / "drawn").glob("*.png"))
    ) + len(list((folder / "drawn").glob("*.jpg"))) == 2
    assert (folder / "exports/quickstart/stm32mp2/pose_app.py").is_file()


def test_all_commands_of_the_pages_are_tested() -> None:
    """Every other program's command is known.

    And no reason is left over from a page that has changed.
    """
    others = [
        command
        for command in documented.commands()
        if command.program not in ("heatpose", "train", "export")
    ]
    assert not [
        f"{command.page}: {command}" for command in others if not _reason(command, ELSEWHERE)
    ]
    own = documented.commands("heatpose", "train", "export")
    used = {pattern for command in own for pattern in _reason(command, NOT_RUN)} | {
        p for command in others for p in _reason(command, ELSEWHERE)
    }
    # stands within a sentence
    assert used == {*NOT_RUN, *ELSEWHERE} - {r"heatpose deploy .*--import"}


def test_the_ci_runs_the_documented_commands() -> None:
    script = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    said = [
        str(command)
        for command in documented.commands("uv")
        if re.match(r"uv run (ruff|mypy|sphinx-build)", str(command))
    ]
    assert len(said) >= 3 and all(command in script for command in said)
