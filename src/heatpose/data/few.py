"""A handful of people to be learnt by heart (`debug=overfit`): a network, loss and decode that cannot do that have a mistake in them."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Dataset

from heatpose.data.augment import prominent
from heatpose.data.datamodule import Batch, PersonDataset, PoseData


class FewPeople(PoseData):
    """The first prominent people, one of each image, in one fixed view each: learnt from, and chosen on.

    Args:
        people: How many.
        repeats: Times that they make an epoch.
        settings: Of `PoseData`.
    """

    def __init__(self, *arguments: Any, people: int = 8, repeats: int = 10, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.people, self.repeats = people, repeats

    def setup(self, stage: str | None = None) -> None:
        """See `PoseData.setup`; then all but a few are left out."""
        super().setup(stage)
        every = {person.image_id: person for person in reversed([*self.train_people, *self.validation_people]) if prominent(person)}
        self.train_people = self.validation_people = sorted(every.values(), key=lambda person: person.image_id)[: self.people]

    def train_dataloader(self) -> DataLoader[Batch]:
        """The same pictures again and again, in batches of all of them."""
        fixed: Dataset[Batch] = PersonDataset(self.train_people, self.skeleton, self.preprocessing)
        return DataLoader(ConcatDataset([fixed] * self.repeats), len(self.train_people))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same once more."""
        return DataLoader(PersonDataset(self.train_people, self.skeleton, self.preprocessing), len(self.train_people))
