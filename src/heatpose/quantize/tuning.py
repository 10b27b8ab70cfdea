"""Quantisation-aware fine-tuning: the int8 network, in its own integers, learns to say what the float network says.

Rounding passes gradients unchanged (Jacob et al., CVPR 2018, section 3.1); scales and zero points stay those of the plan. Only the float network
teaches, no label (Hinton et al. 2015): the aim is the float network, not another one. All layers learn together: pyramid and heads alone, on fixed maps
of the backbone, are several times cheaper a step and were measured to gain little per channel and to lose per tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from heatpose.callbacks import Progress
from heatpose.errors import HeatposeError
from heatpose.memory import keep_freed_memory
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.channels import pyramid_steps
from heatpose.quantize.settings import Tuning
from heatpose.quantize.simulate import Int8Network, Plan, blocks

_LOGITS = ("heatmap", "centre")
Maps = dict[str, Tensor]
"""Head -> its maps f[B, C, H, W]."""


def fine_tune(plan: Plan, teacher: MoveNet, images: NDArray[np.uint8], tuning: Tuning, *, progress: bool = True) -> Plan:
    """Trains a plan's weights and biases.

    Args:
        plan: Of post-training recovery; left as it is.
        teacher: The float network.
        images: Training pictures u8[N, S, S, 3] as the network gets them; never ones that are scored.
        tuning: How long and how fast.
        progress: Shows a bar.

    Returns:
        The plan with other weights and biases.

    Raises:
        HeatposeError: There are no pictures, or the loss is no number any more.
    """
    if not len(images):
        raise HeatposeError("Quantisation-aware fine-tuning has no training pictures; give more training images, or choose quant=int8.")
    keep_freed_memory()
    network = Int8Network(plan).train()
    lightning.seed_everything(tuning.seed, workers=True, verbose=False)
    pictures = _Pictures(images[: tuning.images], teacher, plan.preprocessing)
    _fit(_Distillation(network, _learning(network), tuning), pictures, tuning, progress)
    return network.plan()


def _learning(network: Int8Network) -> list[str]:
    """Names of the layers that may change: all but the fixed ones that upsampling may end in."""
    fixed = {step.smooth for step in pyramid_steps(network.start[0].network)}
    return [name for name, block in blocks(network.start[0].network).items() if block not in fixed]


class _Distillation(lightning.LightningModule):
    """The int8 network learns on pictures.

    Args:
        network: Its parameters change.
        names: Layers that learn.
        tuning: How long and how fast: a short linear rise of the rates, then cosine to nothing.
    """

    def __init__(self, network: Int8Network, names: Sequence[str], tuning: Tuning) -> None:
        super().__init__()
        self.network, self.names, self.tuning = network, names, tuning

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The distance to the teacher."""
        pictures, teacher = batch
        found = maps_of(self.network(pictures.contiguous(memory_format=torch.channels_last)))
        loss = distance(found, _split(teacher, found))
        if not torch.isfinite(loss):
            raise HeatposeError("The loss of the quantisation-aware fine-tuning is no number any more; lower quant.tuning.rate.")
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam, whose steps are as large as the rate: so each layer's rate is set in units of its own rounding."""
        groups: list[dict[str, Any]] = []
        layers, tuning = self.network.layers(), self.tuning
        for name in self.names:
            layer = layers[name]
            groups.append({"params": [layer.conv.weight], "lr": tuning.rate * float(layer.scales.median())})
            groups.append({"params": [layer.conv.bias], "lr": tuning.rate * layer.target.scale})
        optimizer = torch.optim.Adam(groups)
        rise = max(1, tuning.steps // 20)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / rise) * 0.5 * (1 + float(np.cos(np.pi * step / tuning.steps)))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}}


def distance(found: Maps, teacher: Maps) -> Tensor:
    """How far the int8 network's maps are from the float network's, f32[].

    Heatmaps and centre: Kullback-Leibler divergence of the softmax over the cells, each map weighted by how sure the teacher is of it (the sigmoid of
    its peak). Vectors: mean absolute difference, in cells.
    """
    total = torch.zeros(())
    for head, wanted in teacher.items():
        if head in _LOGITS:
            target, own = (functional.log_softmax(maps.flatten(2), -1) for maps in (wanted, found[head]))
            sure = wanted.flatten(2).amax(-1).sigmoid()
            total = total + ((target.exp() * (target - own)).sum(-1) * sure).sum() / sure.sum().clamp_min(1e-6)
        else:
            total = total + 0.1 * (wanted - found[head]).abs().mean()
    return total


def maps_of(output: Tensor | PoseMaps) -> Maps:
    """What a network gives, by head."""
    if isinstance(output, Tensor):
        return {"heatmap": output}
    return {"centre": output.centre, "regression": output.regression, "heatmap": output.heatmaps, "offset": output.offset}


def _split(joined: Tensor, like: Maps) -> Maps:
    """One tensor f[B, C, H, W] -> the heads whose channels it holds one after the other."""
    return dict(zip(like, torch.split(joined, [maps.shape[1] for maps in like.values()], 1), strict=True))


class _Pictures(Dataset[list[Tensor]]):
    """Pictures, as they are and mirrored, and what the teacher says about them."""

    def __init__(self, images: NDArray[np.uint8], teacher: MoveNet, preprocessing: Preprocessing) -> None:
        self.images, self.teacher, self.preprocessing = images, teacher, preprocessing

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        raise NotImplementedError("read in batches")

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """One batch: normalised f32[B, 3, S, S] and the teacher's maps f32[B, C, H, W]."""
        chosen = np.stack([self.images[i // 2][:, ::-1] if i % 2 else self.images[i // 2] for i in indices])
        pictures = self.preprocessing.normalise(torch.from_numpy(chosen).permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return [pictures, torch.cat(list(maps_of(self.teacher(pictures)).values()), 1)]


def _fit(module: _Distillation, pictures: _Pictures, tuning: Tuning, progress: bool) -> None:
    generator = torch.Generator().manual_seed(tuning.seed)
    sampler = torch.utils.data.RandomSampler(pictures, replacement=True, num_samples=tuning.steps * tuning.batch_size, generator=generator)
    loader = DataLoader(pictures, tuning.batch_size, sampler=sampler, collate_fn=list)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=progress, callbacks=[Progress()] if progress else [], precision="32-true", deterministic=True,
    )  # fmt: skip
    trainer.fit(module, loader)
