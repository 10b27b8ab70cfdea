"""The command line before Hydra's parser; what a message shows is tried with the real entry."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf

from heatpose.entries.command_line import options_of, quoted
from heatpose.errors import HeatposeError
from tests.conftest import Heatpose

REPOSITORY = Path(__file__).parents[2]
PATHS = [
    "epoch=3.ckpt",
    "runs/epoch=3-step=10.ckpt",
    "best (1).ckpt",
    "best(1).ckpt",
    "a,b.ckpt",
    "Müller/Übung 2.ckpt",
    "{run}.ckpt",
    "[2024]",
    "[2024].ckpt",
    "{a: 1}",
    "glob(*)",
    "$run.ckpt",
    r"C:\data\new\best.ckpt",
    "+best.ckpt",
    "~best.ckpt",
    '"best.ckpt',
    "Tom's best.ckpt",
    'Tom\'s "best" \\.ckpt',
    "it's=\\",
    "人/最好.ckpt",
    "a b.ckpt",
    "a&b#c!.ckpt",
]

pytestmark = pytest.mark.usefixtures("hydra_as_before")


def composed(heatpose: Heatpose, *arguments: str) -> dict[str, object]:
    """The configuration that the export's entry makes of a command line."""
    ran = heatpose("export", *arguments, "--cfg", "job")
    assert ran.status == 0, ran.err
    content: dict[str, object] = yaml.safe_load(ran.out)
    return content


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is(path: str) -> None:
    (argument,) = quoted([f"checkpoint={path}"])
    assert value_of(argument) == path


def value_of(argument: str) -> object:
    """As Hydra puts it into the configuration."""
    value = OverridesParser.create().parse_override(argument).value()
    return value.text if isinstance(value, QuotedString) else value


def test_every_key_of_a_path_takes_one(heatpose: Heatpose) -> None:
    keys = [
        "data.root",
        "data.eval_root",
        "init.path",
        "runs",
        "name",
        "distill.folder",
        "checkpoint",
    ]
    content = OmegaConf.create(
        composed(heatpose, "init=checkpoint", *(f"{key}=a=(b), ü" for key in keys))
    )
    assert [OmegaConf.select(content, key) for key in keys] == ["a=(b), ü"] * len(keys)


def test_the_home_folder_is_the_users(heatpose: Heatpose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert composed(heatpose, "checkpoint=~/a.ckpt")["checkpoint"] == "/home/somebody/a.ckpt"


def test_what_hydra_understands_is_left_to_it() -> None:
    words = [
        "checkpoint='a=b.ckpt'",
        'data.root="x, y"',
        "runs=${oc.env:HOME}/runs",
        "name=mine",
        "+data.root=x",
        "resolution=96",
    ]
    words += ["boards=[stm32n6]", "data.root=null", "~callbacks.ema", "hydra/launcher=basic"]
    assert quoted(words) == words
    assert quoted([*words, "--config-dir", "root=(b)", "-m", "--info", "config"]) == [
        "--config-dir",
        "root=(b)",
        "-m",
        "--info",
        "config",
        *words,
    ]
    swept = ["init.path=a.ckpt,b.ckpt", "name=choice(a,b)", "resolution=range(96,192,32)"]
    assert quoted(swept, sweep=True) == swept


def test_quoting_again_changes_nothing() -> None:
    once = quoted([f"checkpoint={path}" for path in PATHS])
    assert quoted(once) == once


def test_a_comma_in_a_sweep_separates_and_the_shown_quoting_works() -> None:
    with pytest.raises(HeatposeError, match="outside Hydra's grammar") as refused:
        quoted(["checkpoint=a/epoch=1.ckpt,b(2).ckpt"], sweep=True)
    (argument,) = re.findall(r"write '(.*)' in the shell", str(refused.value))
    ran = subprocess.run(
        ["sh", "-c", f"printf %s '{argument}'"], capture_output=True, text=True, check=True
    )
    assert (
        quoted([ran.stdout], sweep=True)
        == [ran.stdout]
        == ['checkpoint="a/epoch=1.ckpt","b(2).ckpt"']
    )


def test_another_value_outside_the_grammar_shows_how_it_is_quoted(heatpose: Heatpose) -> None:
    ran = heatpose("train", "data.cache=auto", "skeleton.name=a=(b)", "--cfg", "job")
    assert ran.status == 1 and len(ran.err.splitlines()) == 1
    (argument,) = shlex.split(ran.err.partition("write ")[2].partition(" in the shell")[0])
    skeleton = composed(heatpose, argument)["skeleton"]
    assert isinstance(skeleton, dict) and skeleton["name"] == "a=(b)"


def test_several_values_outside_a_sweep(heatpose: Heatpose) -> None:
    ran = heatpose("train", "boards=stm32n6,stm32mp2")
    assert (
        ran.status == 1
        and "add -m to run each of them" in ran.err
        and len(ran.err.splitlines()) == 1
    )
    as_list, as_text = (shlex.split(word)[0] for word in re.findall(r"'boards=[^ ]*'", ran.err))
    assert composed(heatpose, as_list)["boards"] == ["stm32n6", "stm32mp2"]
    assert composed(heatpose, as_text)["boards"] == "stm32n6,stm32mp2"
    for argument in ("skeleton=st13,coco17", "trainer.max_epochs=choice(1,2)"):
        ran = heatpose("train", argument)
        assert ran.status == 1 and ran.err.endswith(
            "; add -m to run each of them, or give one of them.\n"
        )


@pytest.mark.parametrize("argument", ["checkpoint", "", "my key=3", "=3", "checkpoint =a"])
def test_what_is_not_a_setting(argument: str) -> None:
    with pytest.raises(
        HeatposeError,
        match=re.escape(
            f"'{argument}' is not a setting; write KEY=VALUE, such as trainer.max_epochs=3."
        ),
    ):
        quoted([argument])


def test_an_option_may_stand_between_settings(heatpose: Heatpose) -> None:
    folder = REPOSITORY / "examples/upper_body5"
    assert (
        composed(heatpose, "experiment=quickstart", "--config-dir", str(folder), "resolution=96")[
            "resolution"
        ]
        == 96
    )


def test_a_path_without_a_value_is_refused(heatpose: Heatpose) -> None:
    """As an empty variable of the shell leaves it: initial weights would be exported in silence."""
    ran = heatpose("export", "checkpoint=")
    assert (
        ran.status == 1
        and ran.err == "error: checkpoint= has no value; write checkpoint=VALUE, or leave it out.\n"
    )
    assert composed(heatpose, "logger.name=")["logger"]["name"] == ""  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "3"], "Unrecognized arguments: --epochs"),
        (["--cfg", "nothing"], "Argument --cfg/-c: invalid choice: 'nothing'"),
        (["--run", "-m"], "Only one of --run and --multirun is allowed"),
        (["--resolve"], "--resolve needs --cfg job"),
    ],
)
def test_wrong_options_are_wrong_usage(heatpose: Heatpose, options: list[str], words: str) -> None:
    ran = heatpose("train", *options)
    assert (
        ran.status == 2 and ran.err.startswith(f"error: {words}") and len(ran.err.splitlines()) == 1
    )
    assert "trainer.max_epochs=3" in ran.err


def test_options_are_read() -> None:
    options = options_of(["experiment=quickstart", "-m", "--config-dir", "x", "resolution=96,128"])
    assert (
        options.multirun
        and options.config_dir == "x"
        and options.overrides == ["experiment=quickstart", "resolution=96,128"]
    )


def test_a_reader_that_has_gone_ends_it_without_a_word() -> None:
    command = f"{sys.executable} {REPOSITORY / 'train.py'} --cfg job | head -c 10"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stdout and ran.stderr == ""
