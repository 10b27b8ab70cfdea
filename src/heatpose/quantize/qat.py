"""Quantisation-aware training: self-distillation of the simulated int8 network from the float one.

Rounding passes gradients unchanged (Jacob et al., CVPR 2018, section 3.1); scales and zero points
stay those of the plan. The float network is the only teacher; labels are not used. All layers are
trained together: pyramid and heads alone, on fixed maps of the backbone, are several times cheaper
per step and were measured to gain little per channel and to lose per tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.models.movenet import MoveNet
from heatpose.quantize.settings import QatSettings
from heatpose.quantize.simulate import Int8Network, Plan, blocks
from heatpose.training.self_distillation import DistillationSchedule, fit_model


def fine_tune(
    plan: Plan,
    teacher: MoveNet,
    images: NDArray[np.uint8],
    qat: QatSettings,
    *,
    progress: bool = True,
) -> Plan:
    """Trains a plan's weights and biases.

    Args:
        plan: Result of PTQ; left as it is.
        teacher: The float network.
        images: Training images u8[N, S, S, 3] at the side of the network's input; never ones that
            are scored.
        qat: Schedule and rate.
        progress: Shows a bar.

    Returns:
        The plan with other weights and biases.

    Raises:
        HeatposeError: There are no images, or the loss is no longer finite.
    """
    network = Int8Network(plan, learn_scales=qat.scale_rate > 0).train()
    schedule = DistillationSchedule(
        qat.steps, qat.batch_size, qat.seed, "quant.qat.*.rate", "quant=int8"
    )
    fit_model(
        network,
        _groups(network, qat),
        teacher,
        images[: qat.images],
        plan.preprocessing,
        schedule,
        progress=progress,
    )
    return network.plan()


def _groups(network: Int8Network, qat: QatSettings) -> list[dict[str, Any]]:
    """Parameter groups whose rates are in units of each layer's own rounding step.

    Adam's steps are as large as the rate.
    """
    groups: list[dict[str, Any]] = []
    layers = network.layers()
    for name in _learning(network):
        layer = layers[name]
        groups.append(
            {"params": [layer.conv.weight], "lr": qat.rate * float(layer.scales.detach().median())}
        )
        groups.append({"params": [layer.conv.bias], "lr": qat.rate * float(layer.target.start)})
        if layer.growth is not None:
            groups.append({"params": [layer.growth], "lr": qat.scale_rate})
    scales = [steps.growth for steps in network.stored.values() if steps.growth is not None]
    return [*groups, {"params": scales, "lr": qat.scale_rate}] if scales else groups


def _learning(network: Int8Network) -> list[str]:
    """Names of the layers that are trained: all but the fixed ones of the upsampling."""
    (plan,) = network.start
    return [name for name, block in blocks(plan.network).items() if block.conv.weight.requires_grad]
