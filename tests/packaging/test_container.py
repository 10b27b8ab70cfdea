"""The Dockerfile, read: an image cannot be built here.

What it copies is there and is let through, and the commands of the pages suit it.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path

import documented

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def _instructions(name: str) -> list[str]:
    return re.findall(rf"^{name}\s+(.*)$", DOCKERFILE, re.M)


def _let_through(path: str) -> bool:
    """By the rules of .dockerignore: the last pattern that fits decides."""
    lines = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    fits = [line for line in lines if fnmatch.fnmatch(path, line.removeprefix("!"))]
    return not fits or fits[-1].startswith("!")


def test_what_is_copied_is_there() -> None:
    copied = {source for line in _instructions("COPY") for source in shlex.split(line)[:-1]}
    assert {"pyproject.toml", "src", "conf"} <= copied
    for source in copied:
        assert (REPOSITORY / source).exists() and _let_through(source), source
    assert not _let_through("runs") and not _let_through(".venv") and not _let_through(".git")


def test_everything_that_the_package_is_built_from_is_copied() -> None:
    copied = {source for line in _instructions("COPY") for source in shlex.split(line)[:-1]}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["force-include"],
        "hatch_build.py",
        "exports/released",
        *(p.split("/")[0] for p in wheel["packages"]),
    }
    assert needed <= copied
    (start,) = _instructions("ENTRYPOINT")
    assert start == '["heatpose"]' and "heatpose" in project["project"]["scripts"]
    (extra,) = re.findall(r"uv sync .*--extra (\w+)", DOCKERFILE)
    assert extra in project["project"]["optional-dependencies"]


def test_the_pages_run_it_as_it_is_built() -> None:
    build, run = (str(command) for command in documented.commands("docker"))
    assert build == "docker build -t heatpose ." and run.endswith(
        " heatpose train experiment=quickstart"
    )
    (work,) = re.findall(r"-v \S+:(\S+)", run)
    assert work in _instructions("WORKDIR")
    for line in re.findall(r"^#\s+(docker .*)$", DOCKERFILE, re.M):
        assert line.split()[:2] in (build.split()[:2], run.split()[:2])
