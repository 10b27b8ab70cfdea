"""Loaders for training and model selection.

Evaluation people never come here: scoring is `evaluate.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from heatpose.data.augment import GeometricAugment, Occlusion, fixed_transform, prominent, view
from heatpose.data.batches import (
    AugmentedBatches,
    EpochBatches,
    TrainingBatch,
    others_painted,
    sampling_weights,
)
from heatpose.data.image_cache import ImageFiles, ImageStore, choose_images
from heatpose.data.sample import Person, tell_once
from heatpose.data.selection import SELECTIONS, TrainingRules, split_instances, why_empty
from heatpose.data.sources import Source
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing, check_resolution
from heatpose.pose.skeleton import Skeleton

Batch = dict[str, torch.Tensor]
"""image u8[B, 3, S, S], points f32[B, K, 2] in input pixels, labelled bool[B, K], box f32[B.

2] width and height in input pixels, index int64[B] of the
sample among its people, matrix f32[B, 2, 3] from the image to the input's pixels.
"""


class PersonDataset(Dataset[Batch]):
    """People as network inputs, each in one fixed view: what the model is selected on.

    Args:
        instances: The samples.
        skeleton: Its order of keypoints.
        preprocessing: Input side and sampling.
        images: Where the pixels come from; an image that was made smaller is decoded from its
            file all the same.
        alone: Other people are painted grey.
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
        pixels = others_painted(image.pixels, person) if self.alone else image.pixels
        sample = view(
            pixels,
            person,
            transform,
            size,
            False,
            self.skeleton.flip_order,
            self.preprocessing.sampling,
        )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))),
            "points": torch.from_numpy(sample.points),
            "labelled": torch.from_numpy(sample.labelled.copy()),
            "box": torch.from_numpy(sample.box),
            "index": torch.tensor(index),
            "matrix": torch.from_numpy(transform.astype(np.float32)),
        }


class PoseData(lightning.LightningDataModule):
    """Training people split, by image.

    Into a part to learn from and a held-out part to choose the checkpoint on.

    Args:
        source: Where the people come from.
        skeleton: Their keypoints.
        preprocessing: Input side and sampling.
        augment: Random views for training.
        batch_size: Samples per step, of all processes that train together.
        workers: Loader processes; 0 loads in the training process, "auto" chooses.
        held_out: Share of the training images kept for model selection.
        min_keypoints: People with fewer labelled keypoints are not learnt from.
        min_side: People whose box has a shorter geometric mean side, in image pixels, are not
            learnt from.
        limit: At most this many training people (for trials and learning curves).
        prominent_weight: How often someone who is prominent on the whole image, as the
            benchmark's people are, comes up against the others.
        size_weight: Power of the person's size, and
        keypoint_weight: power of the share of labelled keypoints, in how often someone comes up
            (`batches.sampling_weights`).
        resolutions: Input sides to train at, one of them for each batch; None for the
            preprocessing's. The model is selected at the latter.
        occlusion: Patches over the people; None for none.
        cache: "auto" keeps decoded images below `cache.FOLDER` where there is room, "off" decodes
            each time, anything else is the folder to keep them in.
        short_side: Images whose short side is longer are kept at it; None keeps all as they are.
        seed: With the epoch it decides every batch.
        select: Who is learnt from: "all"; "prominent", those who are prominent on the whole
            image; "alone", those on images with one annotation.
        choose_alone: The checkpoint is chosen on images whose other people are painted grey.

    Raises:
        HeatposeError: A number is out of its range.
    """

    def __init__(
        self,
        source: Source,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        augment: GeometricAugment,
        batch_size: int = 32,
        workers: int | str = 2,
        held_out: float = 0.08,
        min_keypoints: int = 3,
        min_side: float = 36.0,
        limit: int | None = None,
        prominent_weight: float = 1.0,
        size_weight: float = 0.0,
        keypoint_weight: float = 0.0,
        resolutions: Sequence[int] | None = None,
        occlusion: Occlusion | None = None,
        cache: str = "off",
        short_side: int | None = 640,
        seed: int = 0,
        select: str = "all",
        choose_alone: bool = False,
    ) -> None:
        super().__init__()
        _check(
            batch_size=(batch_size, 1),
            workers=(0 if workers == "auto" else workers, 0),
            min_keypoints=(min_keypoints, 0),
            limit=(1 if limit is None else limit, 1),
            short_side=(32 if short_side is None else short_side, 32),
        )
        if not 0 < held_out < 1:
            raise HeatposeError(
                f"data.module.held_out={held_out} is no share of the images; use a number between 0"
                " and 1, 0.08 by default."
            )
        if select not in SELECTIONS:
            raise HeatposeError(
                f"data.module.select={select} is unknown; choose one of {', '.join(SELECTIONS)}."
            )
        self.choose_alone = choose_alone
        self.source = source
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.augment = augment
        self.batch_size = batch_size
        self.workers = workers
        self.limit = limit
        self.weighting = {
            "prominence": prominent_weight,
            "size": size_weight,
            "keypoints": keypoint_weight,
        }
        self.resolutions = _resolutions(resolutions) or (preprocessing.size,)
        size = max(self.resolutions)
        self.rules = TrainingRules(min_keypoints, min_side, held_out, select, limit, augment, size)
        if augment.mirror:
            skeleton.require_flip_pairs("augment.geometric.mirror=0")
        self.occlusion = occlusion
        self.cache = cache
        self.short_side = short_side
        self.seed = seed
        self.train_instances: list[Person] = []
        self.validation_instances: list[Person] = []
        self.images: ImageStore = ImageFiles()

    def prepare_data(self) -> None:
        """Downloads or renders, once per node."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Reads the labels, splits them, and opens or builds the cache of the images.

        Raises:
            HeatposeError: Nothing is left to learn from or to choose on, or the cache cannot be
                built.
        """
        if self.train_instances:
            return
        everyone = self.source.training(self.skeleton)
        split = split_instances(everyone, self.rules)
        if reason := why_empty(split, everyone, self.rules):
            raise HeatposeError(reason)
        tell_once(split.account)
        trained, chosen = split.trained, split.chosen
        self.images = choose_images(
            self.cache, self.short_side, everyone, [*trained, *chosen] if self.limit else everyone
        )
        self.train_instances, self.validation_instances = trained, chosen

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """Whole augmented batches, shuffled.

        The last, smaller one is left out where there are several.
        """
        trainer, (rank, ranks) = self.trainer, self._process()
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        views = AugmentedBatches(
            self.train_instances,
            self.skeleton,
            self.augment,
            self.images,
            self.seed,
            self.occlusion,
            packed=on_gpu,
        )
        # a few batches to learn by heart must be the same ones in every epoch
        shuffle = not getattr(trainer, "overfit_batches", 0)
        weights = sampling_weights(self.train_instances, **self.weighting)
        batches = EpochBatches(
            len(views),
            part_of_batch(self.batch_size, ranks),
            self.resolutions,
            self.seed,
            weights,
            shuffle,
            rank,
            ranks,
        )
        return DataLoader(
            views, batch_size=None, sampler=batches, collate_fn=_as_it_is, **self._loading(on_gpu)
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out part of the training data, one fixed view each."""
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        dataset, (rank, ranks) = (
            PersonDataset(
                self.validation_instances,
                self.skeleton,
                self.preprocessing,
                self.images,
                self.choose_alone,
            ),
            self._process(),
        )
        sampler = SharedOnce(len(dataset), rank, ranks)
        return DataLoader(
            dataset, part_of_batch(self.batch_size, ranks), sampler=sampler, **self._loading(on_gpu)
        )

    def _process(self) -> tuple[int, int]:
        """Number of this process among those that train one network, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loading(self, on_gpu: bool) -> dict[str, Any]:
        """Options of a loader. Where the processor trains.

        Reading from a cache is quicker done between the steps than by processes beside them.
        """
        idle = (
            0
            if not on_gpu and not isinstance(self.images, ImageFiles)
            else min(4, os.cpu_count() or 1)
        )
        workers = idle if self.workers == "auto" else int(self.workers)
        return {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": on_gpu}


def _as_it_is(batch: Any) -> Any:
    """A batch comes whole; lambdas do not reach loader processes that are spawned."""
    return batch


def _resolutions(given: Sequence[int] | None) -> tuple[int, ...]:
    for size in given or ():
        check_resolution(size)
    return tuple(given or ())


def _check(**counts: tuple[Any, int]) -> None:
    """Refuses counts that are no whole numbers or below their least value.

    Name -> value, least value.
    """
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or value < least:
            raise HeatposeError(
                f"data.module.{name}={value} is not possible; use a whole number of {least} or"
                " more."
            )


class SharedOnce(Sampler[int]):
    """One process's part of all people in order: every n-th.

    Some come twice at the end where the number does not divide; `in_order` drops them.

    All processes have the same number, because each batch is a meeting of all of them.

    Args:
        count: Of the people.
        rank: Number of this process.
        ranks: How many there are.
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
    """What all processes found for their part of `SharedOnce`, f[ranks, n] -> f[count].

    A value for each person in order.
    """
    return gathered.transpose(0, 1).flatten()[:count]


def part_of_batch(batch_size: int, ranks: int) -> int:
    """Batch size of one process.

    Raises:
        HeatposeError: The batch cannot be shared out evenly.
    """
    if batch_size % ranks:
        raise HeatposeError(
            f"data.batch_size={batch_size} is that of all {ranks} processes together; use a"
            f" multiple of {ranks}."
        )
    return batch_size // ranks


class FewInstances(PoseData):
    """The first prominent people, one of each image, in one fixed view each.

    Learnt from, and chosen on.

    Args:
        instances: How many.
        repeats: Times that they make an epoch.
        settings: Of `PoseData`.
    """

    def __init__(
        self, *arguments: Any, instances: int = 8, repeats: int = 10, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.instances, self.repeats = instances, repeats

    def setup(self, stage: str | None = None) -> None:
        """See `PoseData.setup`; then all but a few are left out."""
        super().setup(stage)
        every = {
            person.image_id: person
            for person in reversed([*self.train_instances, *self.validation_instances])
            if prominent(person)
        }
        self.train_instances = self.validation_instances = sorted(
            every.values(), key=lambda person: person.image_id
        )[: self.instances]

    def train_dataloader(self) -> DataLoader[Batch]:
        """The same images again and again, in batches of all of them."""
        fixed: Dataset[Batch] = PersonDataset(
            self.train_instances, self.skeleton, self.preprocessing
        )
        return DataLoader(ConcatDataset([fixed] * self.repeats), len(self.train_instances))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same once more."""
        return DataLoader(
            PersonDataset(self.train_instances, self.skeleton, self.preprocessing),
            len(self.train_instances),
        )
