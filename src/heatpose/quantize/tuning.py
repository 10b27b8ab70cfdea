"""Quantisation-aware fine-tuning: the int8 network, in its own integers, learns to say what the float network says.

Rounding passes gradients unchanged (Jacob et al., CVPR 2018, section 3.1); scales and zero points stay those of the plan. Only the float network
teaches, no label (Hinton et al. 2015): the aim is the float network, not another one. Pyramid and heads lose most, and they learn on the int8
backbone's maps, which are computed once; that makes a step several times cheaper than one of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from heatpose.callbacks import Progress
from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.scheme import LOWEST
from heatpose.quantize.settings import Tuning
from heatpose.quantize.simulate import Int8Network, Plan, tap_affines

_BATCH = 16
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
    network = Int8Network(plan).eval()
    images = images[: tuning.images]
    lightning.seed_everything(tuning.seed, workers=True, verbose=False)
    if tuning.whole_steps:
        pictures = _Pictures(images, teacher, plan.preprocessing)
        module = _Distillation(network, list(network.layers()), tuning.whole_rate, tuning.whole_steps)
        _fit(module, pictures, tuning.batch_size, tuning.whole_steps, progress)
    if tuning.steps:
        data = _tap_data(network, teacher, images, plan.preprocessing)
        names = [name for name in network.layers() if not name.startswith("backbone.")]
        _fit(_Distillation(network, names, tuning.rate, tuning.steps), data, tuning.batch_size, tuning.steps, progress)
    return network.plan()


class _Distillation(lightning.LightningModule):
    """One stage: some layers learn, on maps of the backbone or on pictures.

    Args:
        network: Its parameters change.
        names: Layers that learn.
        rate: Of Adam, in quantisation steps.
        steps: Of the whole schedule: a short linear rise, then cosine to nothing.
    """

    def __init__(self, network: Int8Network, names: Sequence[str], rate: float, steps: int) -> None:
        super().__init__()
        self.network, self.names, self.rate, self.steps = network, names, rate, steps

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The distance to the teacher."""
        if batch[0].dtype == torch.int8:
            *taps, teacher = batch
            found = self.network.from_taps(_steps_of(taps, self.network))
        else:
            picture, teacher = batch
            found = self.network(picture.contiguous(memory_format=torch.channels_last))
        loss = distance(maps_of(found), _split(teacher.float(), maps_of(found)))
        if not torch.isfinite(loss):
            raise HeatposeError("The loss of the quantisation-aware fine-tuning is no number any more; lower quant.tuning.rate.")
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam, whose steps are as large as the rate: so each layer's rate is set in units of its own rounding."""
        groups: list[dict[str, Any]] = []
        layers = self.network.layers()
        for name in self.names:
            layer = layers[name]
            groups.append({"params": [layer.conv.weight], "lr": self.rate * float(layer.scales.median())})
            groups.append({"params": [layer.conv.bias], "lr": self.rate * layer.target.scale})
        optimizer = torch.optim.Adam(groups)
        rise = max(1, self.steps // 20)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / rise) * 0.5 * (1 + float(np.cos(np.pi * step / self.steps)))

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


def _steps_of(stored: Sequence[Tensor], network: Int8Network) -> list[Tensor]:
    """Stored values i8 -> steps from the zero point."""
    affines = tap_affines(network.start[0])
    return [(values.float() - affine.zero_point).contiguous(memory_format=torch.channels_last) for values, affine in zip(stored, affines, strict=True)]


def _views(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Iterator[Tensor]:
    """Normalised batches of the pictures, each batch as it is and mirrored."""
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH]).permute(0, 3, 1, 2)
        for view in (batch, batch.flip(-1)):
            yield preprocessing.normalise(view).contiguous(memory_format=torch.channels_last)


def _tap_data(network: Int8Network, teacher: MoveNet, images: NDArray[np.uint8], preprocessing: Preprocessing) -> TensorDataset:
    """The int8 backbone's maps as stored, i8, and the teacher's maps, f16[N, C, H, W]."""
    affines = tap_affines(network.start[0])
    taps: list[list[Tensor]] = [[] for _ in affines]
    said: list[Tensor] = []
    with torch.no_grad():
        for pictures in _views(images, preprocessing):
            for kept, steps, affine in zip(taps, network.taps(pictures), affines, strict=True):
                kept.append((steps + affine.zero_point).clamp(LOWEST, 127).to(torch.int8).contiguous())
            said.append(torch.cat(list(maps_of(teacher(pictures)).values()), 1).half())
    return TensorDataset(*(torch.cat(kept) for kept in taps), torch.cat(said))


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


def _fit(module: _Distillation, data: Dataset[Any], batch_size: int, steps: int, progress: bool) -> None:
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=steps * batch_size, generator=generator)  # type: ignore[arg-type]
    loader = DataLoader(data, batch_size, sampler=sampler, collate_fn=_together)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=progress, callbacks=[Progress()] if progress else [], precision="32-true", deterministic=True,
    )  # fmt: skip
    trainer.fit(module, loader)
    module.network.eval()


def _together(batch: Any) -> list[Tensor]:
    """Rows of a TensorDataset -> one batch; what `_Pictures` gives is one already."""
    if isinstance(batch[0], Tensor):
        return list(batch)
    return [torch.stack(column) for column in zip(*batch, strict=True)]
