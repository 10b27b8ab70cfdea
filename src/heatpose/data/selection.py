"""Who is learnt from and who chooses the checkpoint.

The one set of rules of `train.py` and `heatpose data`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heatpose.data.audit import Audit
from heatpose.data.augment import GeometricAugment, prominent
from heatpose.data.formats.image_files import original_name
from heatpose.data.sample import Person

SELECTIONS = ("all", "prominent", "alone")
HIDDEN = "no crop separates the person from a larger neighbour"
NOT_PROMINENT = "held out, but not prominent on the image"
LIMIT = "beyond data.module.limit"


@dataclass(frozen=True)
class TrainingRules:
    """The filters of `data.module`, and what they depend on.

    Attributes:
        min_keypoints: As `PoseData`, as are the next four.
        min_side: In image pixels.
        held_out: Share of the images.
        select: One of `SELECTIONS`.
        limit: None for all.
        augment: Whose crops must show each person.
        size: Longest side of the network's input.
    """

    min_keypoints: int = 3
    min_side: float = 36.0
    held_out: float = 0.08
    select: str = "all"
    limit: int | None = None
    augment: GeometricAugment = field(default_factory=GeometricAugment)
    size: int = 192

    def why_not(self, person: Person) -> str | None:
        """Why someone is neither learnt from nor chosen on; None for who is usable."""
        if int(person.labelled.sum()) < min(self.min_keypoints, len(person.labelled)):
            least = f"data.module.min_keypoints={self.min_keypoints}"
            return f"fewer labelled keypoints than {least}"
        if math.sqrt(person.box[2] * person.box[3]) < self.min_side:
            return f"box smaller than data.module.min_side={self.min_side:g} pixels"
        return None if self.augment.suits(person, self.size) else HIDDEN

    def selects(self, person: Person) -> bool:
        """True for who may be learnt from, as `select` has it."""
        if self.select == "all":
            return True
        return person.alone if self.select == "alone" else prominent(person)


@dataclass(frozen=True)
class TrainingSplit:
    """Training people in two parts.

    Attributes:
        trained: To learn from.
        chosen: Held out; the checkpoint is chosen on them.
        audit: `kept` is the number of both, everyone else is dropped for a reason.
    """

    trained: list[Person]
    chosen: list[Person]
    audit: Audit

    @property
    def account(self) -> str:
        """One line with every number."""
        reasons = f"; {self.audit.reasons}" if self.audit.reasons else ""
        return (
            f"Training: {len(self.trained)} of {self.audit.annotations} people to learn from, "
            f"{len(self.chosen)} held out to choose the checkpoint{reasons}."
        )


def split_instances(instances: Sequence[Person], rules: TrainingRules) -> TrainingSplit:
    """Applies the rules. Either part may come out empty (`why_empty`).

    Args:
        instances: Usable ones (`coco.instances`), in order.
        rules: What is wanted.
    """
    audit = Audit(len({person.image_path for person in instances}), len(instances))
    trained, held = list[Person](), list[Person]()
    for person in instances:
        if reason := rules.why_not(person):
            audit.drop(reason, person.image_id)
        elif in_held_out(person, rules.held_out):
            held.append(person)
        elif not rules.selects(person):
            audit.drop(f"not selected by data.module.select={rules.select}", person.image_id)
        else:
            trained.append(person)
    # Chosen on whole images of prominent people, as the benchmark's are: on crops, scores go on
    # rising long after those have stopped.
    chosen = [person for person in held if prominent(person)] or held
    kept = {id(person) for person in chosen}
    for person in held:
        if id(person) not in kept:
            audit.drop(NOT_PROMINENT, person.image_id)
    for person in trained[rules.limit :] if rules.limit is not None else ():
        audit.drop(LIMIT, person.image_id)
    trained = trained[: rules.limit]
    audit.kept = len(trained) + len(chosen)
    return TrainingSplit(trained, chosen, audit)


def why_empty(
    split: TrainingSplit, instances: Sequence[Person], rules: TrainingRules
) -> str | None:
    """Why a part of a split is empty, with settings for which none is; None where none is.

    Args:
        split: Of `instances`, by the rules.
        instances: As `split_instances`.
        rules: As `split_instances`.
    """
    if split.trained and split.chosen:
        return None
    images = {person.image_path for person in instances if rules.why_not(person) is None}
    if not images:
        what = f"None of the {len(instances)} people can be learnt from"
    elif not split.chosen:
        what = (
            f"None of the {len(images)} images with usable people is held out to choose the"
            f" checkpoint (data.module.held_out={rules.held_out:g})"
        )
    else:
        what = f"Nobody is left to learn from, {len(split.chosen)} people are held out"
    reasons = f" ({split.audit.reasons})" if split.audit.reasons else ""
    remedy = _remedy(instances, rules)
    advice = f"set {' '.join(remedy)}" if remedy else "add images of other people"
    return f"{what}{reasons}; {advice}."


def _remedy(instances: Sequence[Person], rules: TrainingRules) -> list[str]:
    """The fewest settings, as on the command line, with which both parts hold someone.

    Empty for none.
    """
    small, poor = {"min_side": 0}, {"min_keypoints": 1}
    loose: tuple[dict[str, Any], ...] = ({}, small, poor, {**small, **poor})
    for select in dict.fromkeys((rules.select, "all")):
        for changes in loose:
            tried = replace(rules, select=select, **changes)
            share = _share(instances, tried)
            if share is not None:
                found = {**changes, "select": select, "held_out": share}
                return [
                    f"data.module.{name}={value}"
                    for name, value in found.items()
                    if value != getattr(rules, name)
                ]
    return []


def _share(instances: Sequence[Person], rules: TrainingRules) -> float | None:
    """The `held_out` nearest to that of the rules with which both parts hold someone."""
    usable = [person for person in instances if rules.why_not(person) is None]
    held = [_place(person) for person in usable]
    trained = [_place(person) for person in usable if rules.selects(person)]
    if not trained or min(held) >= max(trained):
        return None
    low, high = min(held), max(trained)  # held out are the places below the share
    if low < rules.held_out <= high:
        return rules.held_out
    for digits in range(2, 16):
        scale = 10.0**digits
        at_least, at_most = (math.floor(low * scale) + 1) / scale, math.floor(high * scale) / scale
        share: float = at_least if rules.held_out <= low else at_most
        if low < share <= high and share < 1:
            return share
    return None


def in_held_out(person: Person, share: float) -> bool:
    """Decides by a hash of the image's name below its data set's folder.

    All people of an image fall on one side, adding data moves nobody, and images of one name in
    different folders are different images. Augmented copies of one image (`original_name`) are one.
    """
    return _place(person) < share


def _place(person: Person) -> float:
    """Where an image stands between 0 and 1, evenly spread over images."""
    digest = hashlib.sha256(original_name(person.name).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
