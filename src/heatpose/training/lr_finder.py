"""Suggests a learning rate by a range test (Smith, WACV 2017) with Lightning's tuner.

The rate is increased from step to step; the suggestion is where the loss falls fastest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.utils.files import write_image, write_json

if TYPE_CHECKING:
    import lightning

    from heatpose.data.datamodule import PoseData
    from heatpose.training.module import PoseModule

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
BETA = 0.98
"""Decay of Lightning's running average of the loss."""
CURVE, RECORD = "lr_find.png", "lr_find.json"


def find_rate(
    module: PoseModule, data: PoseData, trainer: lightning.Trainer, folder: Path, steps: int = STEPS
) -> float:
    """Tries rates from `LOWEST` to `HIGHEST` and prints a suggestion; restores the module.

    Args:
        module: Untrained, or with the weights to start from.
        data: Training data.
        trainer: A new one.
        folder: Gets the curve as an image, `lr_find.png`, and as numbers, `lr_find.json`.
        steps: Number of rates.

    Returns:
        The rate where the smoothed loss falls most steeply.

    Raises:
        HeatposeError: The loss does not fall at any rate, or Lightning refuses the trainer's
            settings.
    """
    from lightning.pytorch.tuner.tuning import Tuner

    from heatpose.training.devices import refused_in_one_sentence

    trainer.fit_loop.max_epochs = steps  # ended by the number of steps
    with refused_in_one_sentence():
        found = Tuner(trainer).lr_find(
            module,
            datamodule=data,
            min_lr=LOWEST,
            max_lr=HIGHEST,
            num_training=steps,
            update_attr=False,
        )
    assert found is not None
    rates, losses = (
        np.array(found.results["lr"], np.float64),
        smoothed(step_losses(np.array(found.results["loss"], np.float64))),
    )
    rate = steepest(rates, losses)
    if rate is None:
        raise HeatposeError(
            "The loss does not fall at any learning rate, so none can be suggested; check the "
            "data (heatpose data) and the loss."
        )
    folder.mkdir(parents=True, exist_ok=True)
    curve = {
        "lr": rates.tolist(),
        "loss": [loss if math.isfinite(loss) else None for loss in losses.tolist()],
    }
    write_json(folder / RECORD, {"suggestion": rate, "steps": len(rates), **curve})
    write_image(folder / CURVE, curve_image(rates, losses, rate))
    print(
        f"Suggested: optimizer.lr={rate:.1e} (where the loss falls fastest; the curve is in"
        f" '{folder / CURVE}')."
    )
    return rate


def step_losses(averages: NDArray[np.float64]) -> NDArray[np.float64]:
    """The losses of single steps from Lightning's running averages, f64[n].

    Lightning (`lr_finder._LRCallback`, 2.6) divides the average after n steps by 1 - beta^(n + 1)
    instead of 1 - beta^n. Its curve therefore starts at half the loss and rises, which distorts its
    own suggestion.
    """
    steps = np.arange(1, len(averages) + 1)
    running = averages * (1 - BETA ** (steps + 1))
    losses: NDArray[np.float64] = (running - BETA * np.concatenate([[0.0], running[:-1]])) / (
        1 - BETA
    )
    return losses


def smoothed(losses: NDArray[np.float64], beta: float = 0.9) -> NDArray[np.float64]:
    """Bias-corrected exponential average of f64[n] with decay `beta` (Kingma and Ba 2015)."""
    result, running = np.empty_like(losses), 0.0
    for i, loss in enumerate(losses):
        running = beta * running + (1 - beta) * loss
        result[i] = running / (1 - beta ** (i + 1))
    return result


def steepest(
    rates: NDArray[np.float64], losses: NDArray[np.float64], skip: int = 5
) -> float | None:
    """The rate, before the minimum, with the steepest fall of the loss over the rate's logarithm.

    Args:
        rates: f64[n], increasing.
        losses: f64[n], smoothed.
        skip: Number of first steps to ignore.

    Returns:
        The rate; None if the loss does not fall.
    """
    good = np.isfinite(losses)
    rates, losses = rates[good][skip:], losses[good][skip:]
    end = int(losses.argmin()) + 1 if len(losses) else 0
    if end < 3:
        return None
    # without the minimum itself
    slope = np.gradient(losses[:end], np.log10(rates[:end]))[:-1]
    return float(rates[slope.argmin()]) if slope.min() < 0 else None


def curve_image(
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    chosen: float,
    width: int = 900,
    height: int = 560,
) -> NDArray[np.uint8]:
    """Plots the loss over the learning rate (logarithmic): u8[height, width, 3]."""
    from PIL import Image, ImageDraw
    from PIL.ImageFont import load_default

    good = np.isfinite(losses)
    rates, losses = rates[good], losses[good]
    low, high = float(losses.min()), float(np.quantile(losses, 0.9))
    span, left, top, right, bottom = max(high - low, 1e-9), 80, 50, width - 30, height - 70
    first, last = math.floor(math.log10(rates[0])), math.ceil(math.log10(rates[-1]))

    def place(rate: float, loss: float) -> tuple[float, float]:
        x = left + (math.log10(rate) - first) / max(1, last - first) * (right - left)
        return x, bottom - min(1.0, (loss - low) / span) * (bottom - top)

    image, font = Image.new("RGB", (width, height), "white"), load_default(16)
    draw = ImageDraw.Draw(image)
    for power in range(first, last + 1):
        x, _ = place(10.0**power, low)
        draw.line((x, top, x, bottom), fill=(225, 225, 225))
        draw.text((x, bottom + 8), f"1e{power}", fill="black", font=font, anchor="mt")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=(225, 225, 225))
        draw.text((left - 8, y), f"{low + share * span:.3g}", fill="black", font=font, anchor="rm")
    draw.line(
        [place(rate, loss) for rate, loss in zip(rates, losses, strict=True)],
        fill=(30, 90, 200),
        width=3,
    )
    x, y = place(chosen, float(losses[int(np.abs(rates - chosen).argmin())]))
    draw.line((x, top, x, bottom), fill=(210, 60, 40), width=2)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(210, 60, 40))
    draw.text(
        (x + 10 if x < width / 2 else x - 10, top),
        f"{chosen:.1e}",
        fill=(210, 60, 40),
        font=font,
        anchor="lt" if x < width / 2 else "rt",
    )
    draw.text(
        (left, 16), "training loss, smoothed, over the learning rate", fill="black", font=font
    )
    return np.asarray(image)
