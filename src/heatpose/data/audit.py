"""What became of the labels: kept, left out and assumed, each with its number, told once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from heatpose.data.orientation import Readings


@dataclass
class Audit:
    """What was read from label files and what became of it.

    Attributes:
        images: Images in the files.
        annotations: Person annotations in the files.
        kept: Instances kept.
        dropped: Reason -> number of annotations.
        examples: Reason -> the first few image ids.
        assumed: What was filled in, corrected or ignored -> how often.
        readings: How the images with an orientation tag are read.
    """

    images: int = 0
    annotations: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    assumed: Counter[str] = field(default_factory=Counter)
    readings: Readings = field(default_factory=Readings)

    def drop(self, reason: str, image_id: int) -> None:
        """Counts one dropped annotation."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, [])
        if len(self.examples[reason]) < 5 and image_id not in self.examples[reason]:
            self.examples[reason].append(image_id)

    @property
    def reasons(self) -> str:
        """What was left out and assumed, each with its number; empty where nothing was."""
        parts = (("left out", self.dropped), ("assumed", self.assumed))
        return "; ".join(f"{name}: {_listed(counts)}" for name, counts in parts if counts)

    def account(self, name: object, use: str) -> str | None:
        """One line with every number; None where nothing was left out and nothing assumed.

        Args:
            name: Of the label file or part.
            use: What the kept ones are: "usable", "scored".
        """
        counts = f"{self.kept} of {self.annotations} person annotations {use}"
        return f"{name}: {counts}; {self.reasons}." if self.reasons else None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items())


def tell_once(line: str | None) -> None:
    """Prints a line on stderr, the first time in this process, and in the first of several only."""
    if line is not None:
        _print(line)


@cache
def _print(line: str) -> None:
    # Imported here: reading labels needs nothing of a run's record.
    from heatpose.utils.process import is_first_process

    if is_first_process():
        print(line, file=sys.stderr)
