"""Real optimiser steps for what the configuration can choose, and refusals of the trainer."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import DictConfig, OmegaConf

from heatpose.entries.build import build_trainer
from heatpose.errors import HeatposeError
from heatpose.training import devices
from heatpose.training.devices import program, several_processes
from heatpose.training.fit import fit

CONF = Path(__file__).parents[2] / "conf"
FLAGS = "processor\t: 0\nflags\t\t: fpu avx512f {} avx512vl\n\nprocessor\t: 1\n"
DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
LIMIT = 0.05
"""Far below the first gradients' norm, which is above 1: without clipping the weights differ."""


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Any:
    """Makes a /proc/cpuinfo with a flag."""

    def make(flag: str) -> Path:
        path = tmp_path / f"cpuinfo_{flag}"
        path.write_text(FLAGS.format(flag))
        return path

    return make


LOGGER = {
    "_target_": "lightning.pytorch.loggers.CSVLogger",
    "save_dir": "${oc.env:PYTEST_CSV}",
}


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the logger of `config_of` writes."""
    monkeypatch.setenv("PYTEST_CSV", str(tmp_path / "csv"))


def config_of(*overrides: str) -> DictConfig:
    """conf/trainer/default.yaml, without callbacks and with a small logger."""
    data = {"batch_size": 8}
    plain = OmegaConf.create(
        {"callbacks": {}, "logger": LOGGER, "data": data, "half_checkpoints": False}
    )
    trainer = OmegaConf.load(CONF / "trainer" / "default.yaml")
    small = ["max_steps=1", "limit_val_batches=0", "enable_checkpointing=false"]
    quick = OmegaConf.from_dotlist([*small, "enable_progress_bar=false"])
    chosen = OmegaConf.from_dotlist(list(overrides))
    whole = OmegaConf.merge(plain, {"trainer": OmegaConf.merge(trainer, quick, chosen)})
    assert isinstance(whole, DictConfig)
    return whole


OPTIMIZERS = {
    "adamw fused": partial(torch.optim.AdamW, lr=1e-2, weight_decay=1e-4, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=1e-4),
    "sgd fused": partial(torch.optim.SGD, lr=1e-1, momentum=0.9, fused=True),
}


class FirstBatch(lightning.Callback):
    """Keeps what the step begins with, and the optimiser."""

    batch: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = {name: value.clone() for name, value in batch.items()}
        self.weights = {n: v.clone() for n, v in pl_module.network.state_dict().items()}
        (self.optimizer,) = trainer.optimizers


def by_hand(module: Any, seen: FirstBatch, make: Any, precision: str, clip: str) -> list[Any]:
    """The parameters after the same step, in plain torch: autocast, scaler, clipping, step."""
    network, dtype = module.network, DTYPES[precision]
    network.load_state_dict(seen.weights)
    parameters = list(network.parameters())
    decayed = {"params": [p for p in parameters if p.dim() > 1]}
    others = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
    optimizer = make([decayed, others])
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01)
    batch = seen.batch
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "16-mixed")
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype, dtype is not None, cache_enabled=False):
        output = module(batch["image"])
        terms = module.loss.terms(output, batch["points"], batch["labelled"], batch["box"])
    scaler.scale(sum(terms.values())).backward()
    if clip:
        scaler.unscale_(optimizer)
        assert clip_function(clip)(parameters, LIMIT) is None or clip == "norm"
    scaler.step(optimizer)
    return [p.detach().clone() for p in network.parameters()]


def clip_function(clip: str) -> Any:
    utilities = torch.nn.utils
    return utilities.clip_grad_norm_ if clip == "norm" else utilities.clip_grad_value_


@pytest.mark.parametrize(
    ("precision", "optimizer", "clip"),
    [
        *itertools.product(DTYPES, OPTIMIZERS, ["norm"]),
        *itertools.product(DTYPES, ["adamw fused"], ["value", ""]),
    ],
)
def test_a_step_of_every_precision_optimizer_and_clipping(
    precision: str, optimizer: str, clip: str, tiny_run: Any
) -> None:
    """The configured trainer changes the weights as plain torch does."""
    scaled, make = precision == "16-mixed", OPTIMIZERS[optimizer]
    config = config_of(
        "accelerator=cpu",
        f"precision={'32-true' if scaled else precision}",
        f"gradient_clip_val={LIMIT if clip else 'null'}",
        *([f"gradient_clip_algorithm={clip}"] if clip else []),
    )
    seen = FirstBatch()
    trainer = build_trainer(config, tiny_run.folder)
    trainer.callbacks.append(seen)
    if scaled:  # the configuration refuses it on a processor, but torch's scaler runs there
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        trainer.strategy.precision_plugin = plugin
    module = tiny_run.module(optimizer=make)
    trainer.fit(module, datamodule=tiny_run.data())
    assert trainer.global_step == 1 and trainer.precision == precision
    fused = "fused" in optimizer and not (scaled and clip)
    assert bool(seen.optimizer.defaults.get("fused")) is fused
    found = [p.detach().clone() for p in module.network.parameters()]
    unfused = make if fused else partial(make, fused=False)
    for after, want in zip(found, by_hand(module, seen, unfused, precision, clip), strict=True):
        torch.testing.assert_close(after, want, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(a, b) for a, b in zip(found, seen.weights.values(), strict=False))


@pytest.mark.parametrize("flag", ["avx512_bf16", "avx2"])
def test_the_precision_of_a_processor_follows_its_flags(flag: str, cpuinfo: Any) -> None:
    file, expected = cpuinfo(flag), "bf16-mixed" if flag == "avx512_bf16" else "32-true"
    assert devices.cpu_has_bf16(file) is (expected == "bf16-mixed")
    assert devices.best_precision("cpu", file) == expected
    assert devices.usable_precision("auto", "cpu", file) == expected


def test_a_flag_is_a_whole_word_of_its_line(cpuinfo: Any, tmp_path: Path) -> None:
    assert not devices.cpu_has_bf16(cpuinfo("avx512_bf16x"))
    other = tmp_path / "named"
    other.write_text("model name\t: avx512_bf16\nflags\t\t: fpu\n")
    assert not devices.cpu_has_bf16(other)
    assert not devices.cpu_has_bf16(tmp_path / "absent")


@pytest.mark.parametrize(
    ("accelerator", "bf16", "expected"),
    [("auto", True, "bf16-mixed"), ("gpu", False, "16-mixed"), ("cuda", True, "bf16-mixed")],
)
def test_the_precision_of_a_gpu(
    accelerator: str, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert devices.best_precision(accelerator) == expected
    assert devices.usable_precision("16-mixed", accelerator) == "16-mixed"


@pytest.mark.parametrize(("flag", "used"), [("avx512_bf16", "bf16-mixed"), ("avx2", "32-true")])
def test_float16_on_a_processor_becomes_its_best_precision_with_a_sentence(
    flag: str, used: str, cpuinfo: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted in ("16-mixed", 16):
        assert devices.usable_precision(wanted, "cpu", cpuinfo(flag)) == used
        said = capsys.readouterr().out
        assert said == f"trainer.precision=16-mixed needs a GPU; {used} is used on the processor.\n"


@pytest.mark.parametrize(
    "wanted", ["bf16-true", "16-true", "64-true", "transformer-engine", "half", None]
)
def test_other_precisions_are_refused(wanted: str | None) -> None:
    choices = r"32-true, bf16-mixed, 16-mixed\."
    with pytest.raises(HeatposeError, match=rf"precision={wanted} .*{choices}"):
        devices.usable_precision(wanted, "cpu")


def test_older_names_of_precisions_are_taken(cpuinfo: Any) -> None:
    assert devices.usable_precision(32, "cpu") == "32-true"
    assert devices.usable_precision("bf16", "cpu") == "bf16-mixed"


def test_the_configuration_is_left_as_it_is(tmp_path: Path) -> None:
    config = config_of("accelerator=cpu")
    trainer = build_trainer(config, tmp_path)
    assert trainer.precision == devices.best_precision("cpu") and config.trainer.precision == "auto"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_an_absent_gpu_is_reported_with_the_choices(accelerator: str, tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="trainer.accelerator=auto or trainer.accelerator=cpu"):
        build_trainer(config_of(f"accelerator={accelerator}"), tmp_path)
    build_trainer(config_of("accelerator=auto"), tmp_path)  # the remedy


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("accelerator=xpu9", "xpu9"),
        ("devices=0", "devices=0"),
        ("devices=many", "devices"),
        ("num_nodes=0", "num_nodes"),
        ("strategy=dpp", "dpp"),
        ("strategy=deepspeed", "DeepSpeed"),
        ("unknown=1", "unknown"),
        ("gradient_clip_val=much", "gradient_clip_val"),
        ("gradient_clip_algorithm=cut", "cut"),
        ("limit_train_batches=-3", "limit_train_batches"),
        ("profiler=none", "profiler"),
        ("max_time=soon", "soon"),
    ],
)
def test_settings_that_lightning_refuses_are_one_sentence(
    override: str, word: str, tmp_path: Path
) -> None:
    with pytest.raises(HeatposeError) as refused:
        build_trainer(config_of("accelerator=cpu", override), tmp_path)
    sentence = str(refused.value)
    assert word in sentence and sentence.endswith(".") and "\n" not in sentence
    assert ". " not in sentence and "go back to trainer.accelerator=auto" in sentence


@pytest.mark.parametrize("entry", ["_target_: lightning.Absent", "_target_: torch.nn.ReLU\nx: 1"])
def test_callbacks_that_cannot_be_made_are_one_sentence(entry: str, tmp_path: Path) -> None:
    config = config_of("accelerator=cpu")
    config.callbacks.mine = OmegaConf.create(entry)
    with pytest.raises(HeatposeError, match=r"cannot run with these settings: .*callbacks\.mine"):
        build_trainer(config, tmp_path)


def test_a_batch_that_cannot_be_shared_out_is_refused_before_processes_start(
    tmp_path: Path,
) -> None:
    with pytest.raises(HeatposeError, match="set a multiple of 3"):
        build_trainer(config_of("accelerator=cpu", "devices=3"), tmp_path)
    config = config_of("accelerator=cpu", "devices=3")
    config.data.batch_size = 9  # the remedy
    assert build_trainer(config, tmp_path).world_size == 3


class Fails(lightning.Callback):
    """Raises when the training starts."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        raise self.error


def test_what_lightning_refuses_at_the_start_is_one_sentence(tiny_run: Any) -> None:
    trainer = tiny_run.trainer(1)
    trainer.val_check_interval = 5000
    with pytest.raises(HeatposeError, match=r"`val_check_interval` \(5000\) must be less than"):
        fit(tiny_run.module(), tiny_run.data(), trainer, None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), r"use a smaller data\.batch_size"),
        (MisconfigurationException("Two are one.\nHint."), "Two are one; correct what is named"),
    ],
)
def test_errors_of_the_device_and_of_lightning_end_a_training_with_a_sentence(
    error: Exception, words: str, tiny_run: Any
) -> None:
    with pytest.raises(HeatposeError, match=words):
        fit(tiny_run.module(), tiny_run.data(), tiny_run.trainer(1, Fails(error)), None)


def test_errors_of_other_code_keep_their_traceback(tiny_run: Any) -> None:
    with pytest.raises(ValueError, match="a fault of ours"):
        fit(
            tiny_run.module(),
            tiny_run.data(),
            tiny_run.trainer(1, Fails(ValueError("a fault of ours"))),
            None,
        )


def test_the_program_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without the console script
    assert program("train.py") == ["train.py"]
    script, *command = program("heatpose train")
    assert command == ["train"]
    call = [sys.executable, script, "train", "--help"]
    ran = subprocess.run(call, capture_output=True, text=True)
    assert ran.returncode == 0 and "experiment: " in ran.stdout, ran.stderr
    assert program("absent train") == ["absent train"]
    spaced = tmp_path / "my train.py"
    spaced.touch()
    assert program(str(spaced)) == [str(spaced)]


def test_nothing_is_left_for_the_next_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    before, argv = dict(os.environ), sys.argv
    with several_processes("run=mine"):
        os.environ.update(MASTER_PORT="1234", LOCAL_RANK="7", WORLD_SIZE="2")
    assert dict(os.environ) == before and sys.argv is argv


def test_a_worker_of_another_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        sys.modules["__main__"], "__spec__", ModuleSpec("joblib.externals.loky", None)
    )
    with (
        pytest.raises(HeatposeError, match="trainer.devices=1, or hydra/launcher=basic or slurm"),
        several_processes(),
    ):
        pass
