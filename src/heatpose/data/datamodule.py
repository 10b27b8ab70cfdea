"""Lightning data module: training batches and the held-out samples for model selection.

Evaluation instances are never loaded here; `evaluation.evaluate` scores on them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from heatpose.data.augment import (
    GeometricAugment,
    Occlusion,
    fixed_transform,
    mask_others,
    prominent,
    transform_labels,
)
from heatpose.data.batches import AugmentedBatches, Batch, EpochBatches, TrainingBatch
from heatpose.data.image_cache import ImageFiles, ImageStore, choose_images
from heatpose.data.sample import Person, print_once
from heatpose.data.selection import (
    SELECTIONS,
    TrainingRules,
    explain_empty,
    sampling_weights,
    split_instances,
)
from heatpose.data.sources import Source
from heatpose.errors import HeatposeError
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing, check_resolution
from heatpose.pose.skeleton import Skeleton


class PersonDataset(Dataset[Batch]):
    """Instances as network inputs, each in one fixed crop, for model selection.

    Args:
        instances: The samples.
        skeleton: Order of the keypoints.
        preprocessing: Input side and sampling.
        images: Gives the pixels; an image that was cached at a smaller size is decoded from its
            file instead.
        alone: Paints other instances grey.
    """

    def __init__(
        self,
        instances: Sequence[Person],
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        images: ImageStore | None = None,
        alone: bool = False,
    ) -> None:
        self.instances = instances
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.images = images or ImageFiles()
        self.alone = alone

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, index: int) -> Batch:
        person, size = self.instances[index], self.preprocessing.size
        image = self.images.image(person)
        if image.scale != (1.0, 1.0):
            image = ImageFiles().image(person)
        transform = fixed_transform(person, size)
        pixels = mask_others(image.pixels, person) if self.alone else image.pixels
        pixels = geometry.warp(pixels, transform, size, self.preprocessing.sampling)
        labels = transform_labels(person, transform, False, self.skeleton.flip_order)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "points": torch.from_numpy(labels.points),
            "labelled": torch.from_numpy(labels.labelled.copy()),
            "box": torch.from_numpy(labels.box),
            "index": torch.tensor(index),
            "matrix": torch.from_numpy(transform.astype(np.float32)),
        }


def _check(**counts: tuple[Any, int]) -> None:
    """Refuses counts that are not integers, or below a minimum; name -> (value, minimum)."""
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or value < least:
            raise HeatposeError(
                f"data.module.{name}={value} is not possible; set a whole number of {least} or"
                " more."
            )


@dataclass(frozen=True)
class DataSettings:
    """Settings of `PoseData` (`data.module` of the configuration).

    Attributes:
        batch_size: Samples per step, summed over all processes of a training.
        workers: Loader processes; 0 loads in the training process, "auto" chooses.
        held_out: Fraction of the training images used for model selection, 0 < held_out < 1.
        min_keypoints: Instances with fewer labelled keypoints are not used.
        min_side: Instances whose box has a shorter geometric mean side, in image pixels, are not
            used.
        limit: Maximum number of training instances (for trials and learning curves); None for all.
        prominent_weight: Sampling weight of instances that are prominent on the whole image, as
            those of the benchmark are, relative to all others.
        size_weight: Exponent of the instance's relative size in its sampling weight.
        keypoint_weight: Exponent of the fraction of labelled keypoints in the sampling weight
            (`selection.sampling_weights`).
        resolutions: Input sides to train at, one per batch; None for the side of the
            preprocessing. The model is selected at the latter.
        cache: "auto" keeps decoded images below `image_cache.FOLDER` if the disk has room, "off"
            decodes each time, anything else is the folder of the cache.
        short_side: Images with a longer short side, in pixels, are cached at it; None keeps all at
            their size.
        seed: Determines every batch, together with the epoch.
        select: Instances to train on: "all"; "prominent", those prominent on the whole image;
            "alone", those on images with one annotation.
        choose_alone: Other instances are painted grey on the images for model selection.

    Raises:
        HeatposeError: A value is out of its range.
    """

    batch_size: int = 32
    workers: int | str = 2
    held_out: float = 0.08
    min_keypoints: int = 3
    min_side: float = 36.0
    limit: int | None = None
    prominent_weight: float = 1.0
    size_weight: float = 0.0
    keypoint_weight: float = 0.0
    resolutions: Sequence[int] | None = None
    cache: str = "off"
    short_side: int | None = 640
    seed: int = 0
    select: str = "all"
    choose_alone: bool = False

    def __post_init__(self) -> None:
        _check(
            batch_size=(self.batch_size, 1),
            workers=(0 if self.workers == "auto" else self.workers, 0),
            min_keypoints=(self.min_keypoints, 0),
            limit=(1 if self.limit is None else self.limit, 1),
            short_side=(32 if self.short_side is None else self.short_side, 32),
        )
        if not 0 < self.held_out < 1:
            raise HeatposeError(
                f"data.module.held_out={self.held_out} is not a fraction of the images; set a"
                " number between 0 and 1, 0.08 by default."
            )
        if self.select not in SELECTIONS:
            raise HeatposeError(
                f"data.module.select={self.select} is unknown; choose one of"
                f" {', '.join(SELECTIONS)}."
            )
        for size in self.resolutions or ():
            check_resolution(size)

    def datamodule(
        self,
        source: Source,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        augment: GeometricAugment,
        occlusion: Occlusion | None = None,
    ) -> PoseData:
        """The data module with these settings; arguments as `PoseData`."""
        return PoseData(source, skeleton, preprocessing, augment, self, occlusion)


class PoseData(lightning.LightningDataModule):
    """Training instances, split by image into a training and a held-out part.

    Args:
        source: Gives the instances.
        skeleton: Their keypoints.
        preprocessing: Input side and sampling.
        augment: Geometric augmentation of training samples.
        settings: Selection, sampling and loading.
        occlusion: Patches over the instances; None for none.

    Raises:
        HeatposeError: Samples are mirrored, but the skeleton does not pair left with right.
    """

    def __init__(
        self,
        source: Source,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        augment: GeometricAugment,
        settings: DataSettings = DataSettings(),
        occlusion: Occlusion | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.augment = augment
        self.settings = settings
        self.occlusion = occlusion
        self.resolutions = tuple(settings.resolutions or ()) or (preprocessing.size,)
        self.rules = TrainingRules(
            settings.min_keypoints,
            settings.min_side,
            settings.held_out,
            settings.select,
            settings.limit,
            augment,
            max(self.resolutions),
        )
        if augment.mirror:
            skeleton.require_flip_pairs("augment.geometric.mirror=0")
        self.train_instances: list[Person] = []
        self.validation_instances: list[Person] = []
        self.images: ImageStore = ImageFiles()
        self._to_cache: tuple[list[Person], list[Person]] | None = None

    def prepare_data(self) -> None:
        """Downloads or renders the data, once per node."""
        self.source.prepare()

    def read_labels(self) -> None:
        """Reads and splits the labels, which takes seconds; only once.

        Raises:
            HeatposeError: The training or the held-out part is empty.
        """
        if self.train_instances:
            return
        instances = self.source.training(self.skeleton)
        split = split_instances(instances, self.rules)
        if reason := explain_empty(split, instances, self.rules):
            raise HeatposeError(reason)
        print_once(split.summary)
        used = [*split.train, *split.validation] if self.settings.limit else instances
        self._to_cache = instances, used
        self.train_instances, self.validation_instances = split.train, split.validation

    def setup(self, stage: str | None = None) -> None:
        """Reads the labels, splits them, and opens or builds the image cache.

        Raises:
            HeatposeError: As `read_labels`, or the cache cannot be built.
        """
        self.read_labels()
        if self._to_cache is not None:
            settings = self.settings
            self.images = choose_images(settings.cache, settings.short_side, *self._to_cache)
            self._to_cache = None

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """Whole augmented batches, shuffled; an incomplete last one is dropped if others exist."""
        settings, trainer, (rank, ranks) = self.settings, self.trainer, self._process()
        on_gpu = self._on_gpu()
        dataset = AugmentedBatches(
            self.train_instances,
            self.skeleton,
            self.augment,
            self.images,
            settings.seed,
            self.occlusion,
            packed=on_gpu,
        )
        # with overfit_batches every epoch must have the same batches
        shuffle = not getattr(trainer, "overfit_batches", 0)
        weights = sampling_weights(
            self.train_instances,
            settings.prominent_weight,
            settings.size_weight,
            settings.keypoint_weight,
        )
        batches = EpochBatches(
            len(dataset),
            local_batch_size(settings.batch_size, ranks),
            self.resolutions,
            settings.seed,
            weights,
            shuffle,
            rank,
            ranks,
        )
        return DataLoader(
            dataset, batch_size=None, sampler=batches, collate_fn=_identity, **self._loading(on_gpu)
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out instances, each as one fixed sample."""
        rank, ranks = self._process()
        dataset = PersonDataset(
            self.validation_instances,
            self.skeleton,
            self.preprocessing,
            self.images,
            self.settings.choose_alone,
        )
        return DataLoader(
            dataset,
            local_batch_size(self.settings.batch_size, ranks),
            sampler=ValidationSampler(len(dataset), rank, ranks),
            **self._loading(self._on_gpu()),
        )

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _process(self) -> tuple[int, int]:
        """Global rank of this process and the world size."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loading(self, on_gpu: bool) -> dict[str, Any]:
        """Options of a loader.

        In a training on the CPU, reading a cache between the steps is faster than loader processes
        that compete with them for the cores.
        """
        cached = not isinstance(self.images, ImageFiles)
        auto = 0 if cached and not on_gpu else min(4, os.cpu_count() or 1)
        workers = auto if self.settings.workers == "auto" else int(self.settings.workers)
        return {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": on_gpu}


def _identity(batch: Any) -> Any:
    """Items are whole batches already. A lambda could not be sent to spawned loader processes."""
    return batch


class ValidationSampler(Sampler[int]):
    """One process's part of all samples: every n-th, in order.

    Some samples repeat at the end if the number of processes does not divide theirs, because all
    processes must have equally many; `in_order` drops the repeated ones.

    Args:
        count: Number of samples.
        rank: Global rank of this process.
        ranks: World size.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.rank, self.ranks = count, rank, ranks

    def __len__(self) -> int:
        return (self.count + self.ranks - 1) // self.ranks

    def __iter__(self) -> Iterator[int]:
        return (
            place % self.count for place in range(self.rank, len(self) * self.ranks, self.ranks)
        )


def in_order(gathered: torch.Tensor, count: int) -> torch.Tensor:
    """Results of all processes for their parts of `ValidationSampler`, in the order of the samples.

    Args:
        gathered: f[ranks, n].
        count: Number of samples.

    Returns:
        f[count].
    """
    return gathered.transpose(0, 1).flatten()[:count]


def local_batch_size(batch_size: int, ranks: int) -> int:
    """Batch size of one process.

    Args:
        batch_size: Of all processes together.
        ranks: World size.

    Raises:
        HeatposeError: `ranks` does not divide it.
    """
    if batch_size % ranks:
        raise HeatposeError(
            f"data.batch_size={batch_size} is that of all {ranks} processes together; set a"
            f" multiple of {ranks}."
        )
    return batch_size // ranks


@dataclass(frozen=True)
class OverfitSettings(DataSettings):
    """Settings of `OverfitData` (`debug=overfit`).

    Attributes:
        instances: Size of the subset.
        repeats: Steps per epoch, each on the whole subset.
    """

    instances: int = 8
    repeats: int = 10

    def datamodule(
        self,
        source: Source,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        augment: GeometricAugment,
        occlusion: Occlusion | None = None,
    ) -> OverfitData:
        """The data module with these settings; `occlusion` is not used."""
        return OverfitData(source, skeleton, preprocessing, augment, self)


class OverfitData(PoseData):
    """Overfit sanity check: trains and validates on a few instances, without augmentation.

    The instances are prominent ones of different images.
    """

    settings: OverfitSettings

    def setup(self, stage: str | None = None) -> None:
        """See `PoseData.setup`; keeps the subset."""
        super().setup(stage)
        prominent_ones = {
            person.image_id: person
            for person in reversed([*self.train_instances, *self.validation_instances])
            if prominent(person)
        }
        self.train_instances = self.validation_instances = sorted(
            prominent_ones.values(), key=lambda person: person.image_id
        )[: self.settings.instances]

    def train_dataloader(self) -> DataLoader[Any]:
        """The subset as one batch, repeated."""
        fixed: Dataset[Batch] = PersonDataset(
            self.train_instances, self.skeleton, self.preprocessing
        )
        repeated: Dataset[Batch] = ConcatDataset([fixed] * self.settings.repeats)
        return DataLoader(repeated, len(self.train_instances))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The subset as one batch."""
        return DataLoader(
            PersonDataset(self.train_instances, self.skeleton, self.preprocessing),
            len(self.train_instances),
        )
