"""Loaders for training and model selection. Evaluation people never come here: scoring is `evaluate.py`'s."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, WeightedRandomSampler

from heatpose.data.augment import GeometricAugment, fixed_transform, prominent, view
from heatpose.data.sample import Person, load_image
from heatpose.data.sources import Source
from heatpose.errors import HeatposeError
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import Skeleton

SELECTIONS = ("all", "prominent", "alone")
Batch = dict[str, torch.Tensor]
"""image u8[B, 3, S, S], points f32[B, K, 2] in input pixels, labelled bool[B, K], box f32[B, 2] width and height in input pixels, index int64[B] of the
sample among its people, matrix f32[B, 2, 3] from the image to the input's pixels."""


class PersonDataset(Dataset[Batch]):
    """People as network inputs.

    Args:
        people: The samples.
        skeleton: For the left/right swap.
        preprocessing: Input side and, for model selection, the sampling.
        augment: Random views; None gives each person's one fixed view.
    """

    def __init__(self, people: Sequence[Person], skeleton: Skeleton, preprocessing: Preprocessing, augment: GeometricAugment | None = None) -> None:
        self.people = people
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.augment = augment

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Batch:
        person, size = self.people[index], self.preprocessing.size
        image = load_image(person.image_path, person.width, person.height)
        if self.augment is None:
            transform, mirrored, sampling = fixed_transform(person, size), False, self.preprocessing.sampling
        else:
            random = np.random.default_rng(int(torch.randint(2**62, ())))  # torch seeds its workers, so runs repeat and workers differ
            transform, mirrored = self.augment.transform(person, size, random)
            sampling = "nearest" if random.random() < self.augment.nearest else "bilinear"
        sample = view(image, person, transform, size, mirrored, self.skeleton.flip_order, sampling)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))),
            "points": torch.from_numpy(sample.points),
            "labelled": torch.from_numpy(sample.labelled.copy()),
            "box": torch.from_numpy(sample.box),
            "index": torch.tensor(index),
            "matrix": torch.from_numpy(transform.astype(np.float32)),
        }


class PoseData(lightning.LightningDataModule):
    """Training people split, by image, into a part to learn from and a held-out part to choose the checkpoint on.

    Args:
        source: Where the people come from.
        skeleton: Their keypoints.
        preprocessing: Input side and sampling.
        augment: Random views for training.
        batch_size: Samples per step.
        workers: Loader processes; 0 loads in the training process.
        held_out: Share of the training images kept for model selection.
        min_keypoints: People with fewer labelled keypoints are not learnt from.
        min_side: People whose box has a shorter geometric mean side, in image pixels, are not learnt from.
        limit: At most this many training people (for trials and learning curves).
        prominent_weight: How often someone who is prominent on the whole picture, as the benchmark's people are, comes up against the others.
        select: Who is learnt from: "all"; "prominent", those who are prominent on the whole picture; "alone", those on pictures with one annotation.

    Raises:
        HeatposeError: A number is out of its range.
    """

    def __init__(
        self, source: Source, skeleton: Skeleton, preprocessing: Preprocessing, augment: GeometricAugment, batch_size: int = 32, workers: int = 2,
        held_out: float = 0.08, min_keypoints: int = 3, min_side: float = 36.0, limit: int | None = None,
        prominent_weight: float = 1.0, select: str = "all",
    ) -> None:  # fmt: skip
        super().__init__()
        _check(batch_size=(batch_size, 1), workers=(workers, 0), min_keypoints=(min_keypoints, 0), limit=(1 if limit is None else limit, 1))
        if not 0 < held_out < 1:
            raise HeatposeError(f"data.module.held_out={held_out} is no share of the images; use a number between 0 and 1, 0.08 by default.")
        if select not in SELECTIONS:
            raise HeatposeError(f"data.module.select={select} is unknown; choose one of {', '.join(SELECTIONS)}.")
        self.select = select
        self.source = source
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.augment = augment
        self.batch_size = batch_size
        self.workers = workers
        self.held_out = held_out
        self.min_keypoints = min_keypoints
        self.min_side = min_side
        self.limit = limit
        self.prominent_weight = prominent_weight
        self.train_people: list[Person] = []
        self.validation_people: list[Person] = []

    def prepare_data(self) -> None:
        """Downloads or renders, once per node."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Reads the labels and splits them.

        Raises:
            HeatposeError: Nothing is left to learn from or to choose on.
        """
        if self.train_people:
            return
        usable = [p for p in self.source.training(self.skeleton) if self._is_usable(p)]
        chosen = [p for p in usable if in_held_out(p, self.held_out)]
        learnt = [p for p in usable if not in_held_out(p, self.held_out) and self._is_selected(p)]
        if not chosen or not learnt:
            raise HeatposeError(
                f"Only {len(usable)} usable people ({len(learnt)} to learn from, {len(chosen)} held out): too few; lower data.min_keypoints or add data."
            )
        # Chosen on whole pictures of prominent people, as the benchmark's are: on crops, scores go on rising long after those have stopped.
        self.train_people, self.validation_people = learnt[: self.limit], [p for p in chosen if prominent(p)] or chosen

    def _is_usable(self, person: Person) -> bool:
        side = float(np.sqrt(person.box[2] * person.box[3]))
        labelled = int(person.labelled.sum()) >= min(self.min_keypoints, len(self.skeleton))
        return labelled and side >= self.min_side and self.augment.suits(person, self.preprocessing.size)

    def _is_selected(self, person: Person) -> bool:
        return self.select == "all" or (person.alone if self.select == "alone" else prominent(person))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, augmented; the last, smaller batch is left out where there are several."""
        dataset = PersonDataset(self.train_people, self.skeleton, self.preprocessing, self.augment)
        weights = [self.prominent_weight if prominent(person) else 1.0 for person in self.train_people]
        sampler = WeightedRandomSampler(weights, len(weights)) if self.prominent_weight != 1.0 else RandomSampler(dataset)
        return self._loader(dataset, sampler=sampler, drop_last=len(dataset) >= 2 * self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out part of the training data, one fixed view each."""
        return self._loader(PersonDataset(self.validation_people, self.skeleton, self.preprocessing))

    def _loader(self, dataset: PersonDataset, **options: Any) -> DataLoader[Batch]:
        return DataLoader(
            dataset, self.batch_size, num_workers=self.workers, persistent_workers=self.workers > 0, pin_memory=torch.cuda.is_available(), **options
        )


def _check(**counts: tuple[int, int]) -> None:
    """Refuses counts that are no whole numbers or below their least value; name -> value, least value."""
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or value < least:
            raise HeatposeError(f"data.module.{name}={value} is not possible; use a whole number of {least} or more.")


def in_held_out(person: Person, share: float) -> bool:
    """Decides by a hash of the image's file name: all people of an image fall on one side, and adding data moves nobody."""
    digest = hashlib.sha256(person.image_path.name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
