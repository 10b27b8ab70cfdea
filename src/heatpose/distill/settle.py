"""A network whose upsampling was changed learns to say again what it said before: the two ways differ at the border, and the layers after it mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heatpose.models.movenet import MoveNet
    from heatpose.preprocessing import Preprocessing


@dataclass(frozen=True)
class Settling:
    """How long it learns (conf/quant).

    Attributes:
        steps: Of Adam.
        batch_size: Pictures a step.
        images: Training pictures: views of training people, each as it is and mirrored.
        rate: Of Adam.
        seed: Of views and order.
        sharpen: Share of the pictures that get harder edges, as nearest sampling makes them of large photographs.
    """

    steps: int = 300
    batch_size: int = 16
    images: int = 2000
    rate: float = 5e-5
    seed: int = 0
    sharpen: float = 0.6


def settle(network: MoveNet, teacher: MoveNet, images: NDArray[np.uint8], preprocessing: Preprocessing, settling: Settling, *, progress: bool = True) -> None:
    """Trains a network in place. Batch-norm statistics and the fixed layers of the upsampling stay.

    Args:
        network: The teacher's weights under another way of upsampling.
        teacher: The network as it was trained.
        images: Training pictures u8[N, S, S, 3] as the network gets them; never ones that are scored.
        preprocessing: Of both.
        settling: How long and how fast.
        progress: Shows a bar.

    Raises:
        HeatposeError: There are no pictures, or the loss is no number any more.
    """
    from heatpose.distill.live import Lessons, learn

    network.eval().requires_grad_(True)
    for step in network.pyramid:
        step.upsample.requires_grad_(False)
    groups = [{"params": [parameter for parameter in network.parameters() if parameter.requires_grad], "lr": settling.rate}]
    lessons = Lessons(settling.steps, settling.batch_size, settling.seed, "quant.settling.rate", "quant.settling=null", settling.sharpen)
    learn(network, groups, teacher.eval(), images[: settling.images], preprocessing, lessons, progress=progress)
    network.requires_grad_(False)
