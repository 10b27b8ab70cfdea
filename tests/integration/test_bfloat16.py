"""Training in bfloat16 mixed precision, from the first step to the exported files."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
LONGEST_S, EPOCHS = 300, 3


def test_bfloat16_trains_validates_resumes_scores_and_exports(place: Any) -> None:
    """A killed run goes on in the same precision; the checkpoint holds float32 weights."""
    exports = find_spec("onnx2tf") is not None
    limits = [f"quant.limits.{name}=1000" for name in ("drop_pc", "drop_pt", "drift_p50_px")]
    small = ["quant.artefacts=[int8_pc]", "quant.calibration_images=8", f"export={exports}"]
    precision = ["trainer.precision=bf16-mixed", f"trainer.max_epochs={EPOCHS}"]
    run = [*place.tiny, *limits, *small, *precision]
    last = Path(place.folder, "runs/quickstart/checkpoints/last.ckpt")
    process, limit = place.start("train", *run), time.monotonic() + LONGEST_S
    while not last.is_file() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = load_checkpoint(last).metadata["epoch"]
    ran = place.run("train", *run)
    assert ran.status == 0, ran.err
    loaded = load_checkpoint(last)
    assert begun <= loaded.metadata["epoch"] == EPOCHS - 1
    assert all(p.dtype == torch.float32 for p in loaded.network.parameters())
    files = [*Path(place.folder, "exports").glob("quickstart/*_int8_pc.tflite")]
    assert len(files) == int(exports)
