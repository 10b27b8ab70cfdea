"""Errors of libraries and of the system as sentences.

Raised by them where that is possible here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from heatpose.errors import BUG, HeatposeError, exit_on_user_error, foreign_sentence


def sentence(raises: Callable[[], Any]) -> str:
    """Sentence for the error of a call."""
    try:
        raises()
    except Exception as error:
        said = foreign_sentence(error)
        assert not said or (said.endswith(".") and "\n" not in said)
        return said
    raise AssertionError("no error")


def throw(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def test_a_full_gpu_names_the_settings_to_lower() -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB."
    for error in (
        torch.OutOfMemoryError(text),
        RuntimeError(text),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ):
        said = sentence(throw(error))
        assert (
            said.startswith("The memory of the GPU is full (") and "lower data.batch_size" in said
        )
    assert "CUDNN_STATUS_ALLOC_FAILED" in sentence(
        throw(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    )


def test_full_memory_names_the_settings_to_lower() -> None:
    for raises in (lambda: bytearray(1 << 62), lambda: torch.empty(1 << 60, dtype=torch.uint8)):
        assert sentence(raises).startswith(
            "The memory of this machine is full; lower data.batch_size or data.workers"
        )


class Fatal(Dataset[int]):
    """Ends the process that reads it, as the system does where memory runs out."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.skipif(sys.platform != "linux", reason="processes of the loader are forked")
def test_a_killed_process_of_the_loader() -> None:
    said = sentence(
        lambda: list(DataLoader(Fatal(), num_workers=1, multiprocessing_context="fork"))
    )
    assert "ended by the system" in said and "lower data.workers" in said


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "libGL.so.1" in sentence(
        throw(ImportError("libGL.so.1: cannot open shared object file", name="PIL"))
    )
    for module, remedy in (
        ("wandb", "heatpose[wandb]"),
        ("mlflow", "heatpose[mlflow]"),
        ("cv2", "heatpose[video]"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        said = sentence(lambda module=module: __import__(module))
        assert (
            said == f"The package '{module}' is not installed; install {remedy}, "
            f"or run uv sync --extra {remedy[9:-1]}."
        )
    assert sentence(lambda: __import__("no_such_thing")).endswith(
        "install the package no_such_thing."
    )
    assert sentence(lambda: __import__("heatpose.no_such_thing")) == ""  # a bug


def test_a_logger_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own words for it name a version and no command."""
    import lightning.pytorch.loggers.wandb as module
    from lightning_utilities.core.imports import RequirementCache

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(module, "_WANDB_AVAILABLE", RequirementCache("wandb>=999"))
    config = OmegaConf.create({"logger": {"_target_": "lightning.pytorch.loggers.WandbLogger"}})
    assert "heatpose[wandb]" in sentence(lambda: instantiate(config.logger))


def test_settings_that_are_none() -> None:
    config = OmegaConf.create({"a": {"b": "${nothing}", "c": "???"}})
    OmegaConf.set_struct(config, True)
    said = sentence(lambda: config.a.b)
    assert (
        said.startswith("a.b cannot be resolved (Interpolation key 'nothing' not found)")
        and r"\${...}" in said
    )
    assert OmegaConf.create({"b": r"\${nothing}"}).b == "${nothing}"  # as in the sentence
    assert sentence(lambda: config.a.c) == "a.c has no value; set a.c=VALUE."
    assert sentence(lambda: config.a.d).startswith(
        "The configuration has no a.d, which is needed; add it with +a.d=VALUE"
    )


def test_an_object_that_refuses_its_settings_names_the_key() -> None:
    config = OmegaConf.create(
        {
            "callbacks": {
                "checkpoint": {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "monitor": "x",
                    "mode": "best",
                }
            }
        }
    )
    said = sentence(lambda: instantiate(config.callbacks.checkpoint))
    assert (
        said.startswith("callbacks.checkpoint cannot be created from its settings (`mode` can be")
        and "best" in said
    )
    config = OmegaConf.create({"model": {"_target_": "torch.nn.Nothing"}})
    assert sentence(lambda: instantiate(config.model)).startswith(
        "model._target_ names something that cannot be imported"
    )
    try:
        raise InstantiationException("Error in call\nfull_key: model") from AttributeError(
            "a mistake of the code"
        )
    except InstantiationException as error:
        assert foreign_sentence(error) == ""


def test_lightnings_refusals() -> None:
    assert "No supported gpu backend found!" in sentence(
        throw(MisconfigurationException("No supported gpu backend found!"))
    )


def test_yaml_with_its_place() -> None:
    said = sentence(lambda: yaml.safe_load("a: b: c"))
    assert "line 1, column 5" in said and "mapping values" in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake"),
        KeyError("x"),
        RuntimeError("shape [2] is invalid"),
        FileNotFoundError(2, "No such file"),
    ],
)
def test_a_bug_keeps_its_traceback_and_is_called_one(error: Exception) -> None:
    message = "with exit_on_user_error():"
    imported = "from heatpose.errors import exit_on_user_error"
    code = f"{imported}\n{message}\n    {message}\n        raise {error!r}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("Traceback") and ran.stderr.count(BUG) == 1
    assert ran.stderr.endswith(f"{BUG}\n")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (36, "choose a shorter name"),
        (20, "choose another file"),
        (12, "end other programs"),
        (5, "make room"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="numbers of Linux")
def test_errors_of_the_system_have_a_remedy(
    number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        raise OSError(number, os.strerror(number), "runs/x")
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: 'runs/x' cannot be used ({os.strerror(number)}); ")
        and words in said
    )


def test_ones_own_sentence_goes_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        try:
            raise HeatposeError("Set it to 3.")
        except HeatposeError as error:
            raise MisconfigurationException("no") from error
    assert capsys.readouterr().err == "error: Set it to 3.\n"
