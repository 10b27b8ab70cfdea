"""What is to be learnt from a teacher, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heatpose.errors import HeatposeError
from heatpose.runners.normalisation import Normalisation
from heatpose.skeleton import Skeleton, named


@dataclass(frozen=True)
class DistillSettings:
    """Entries of conf/distill.

    Attributes:
        path: The teacher: a `.ckpt`, `.onnx` or `.tflite` pose model; None for none.
        size: Input side to run it at, for files that leave it open (checkpoints, some ONNX); None for its own.
        skeleton: What its channels are, for a file that does not state it: coco17, st13 or a YAML.
        normalisation: How bytes become its input, likewise; see `runners.normalisation.FORMS`.
        margin: It sees each person in a square crop of this many times the longer side of the person's box; None shows it the whole picture,
            stretched.
        mirror: It is asked about the mirrored view as well, and says the mean of both (flip test: Newell, Yang and Deng, ECCV 2016).
        weight: Of the term, against the labels' loss.
        temperature: Of both softmaxes; the term is multiplied by its square (Hinton, Vinyals and Dean 2015, section 2).
        spread: A teacher that gives poses alone is learnt as the OKS kernel around its points, the standard deviation multiplied by this.
        fill: Keypoints that are not labelled get the teacher's point in the labels' loss, weighted by its score.
        min_score: Points below are neither filled in nor merged into others; the map's term is weighted by the score and needs no limit.
        folder: Where the teacher's answers are kept.
        required: No path is a mistake.

    Raises:
        HeatposeError: A number is out of its range.
    """

    path: str | None = None
    size: int | None = None
    skeleton: str | None = None
    normalisation: str | None = None
    margin: float | None = 1.0
    mirror: bool = False
    weight: float = 1.0
    temperature: float = 1.0
    spread: float = 1.0
    fill: bool = False
    min_score: float = 0.2
    folder: str = "data_cache/teachers"
    required: bool = False

    def __post_init__(self) -> None:
        positive = {"temperature": self.temperature, "spread": self.spread}
        for name, value in positive.items():
            if not value > 0:
                raise HeatposeError(f"distill.{name}={value} is not possible; use a number above 0, 1 by default.")
        if self.margin is not None and self.margin < 1:
            raise HeatposeError(f"distill.margin={self.margin} would cut the person; use 1 or more, or null for the whole picture.")
        if self.weight < 0 or not 0 <= self.min_score <= 1:
            raise HeatposeError(f"distill.weight={self.weight} has to be 0 or more, and distill.min_score={self.min_score} within [0, 1].")

    def check(self) -> None:
        """Refuses, before anything slow begins, what cannot be opened later.

        Raises:
            HeatposeError: No path where one is required, or no such file.
        """
        if self.path is None and self.required:
            raise HeatposeError("A run with a teacher needs distill.path=FILE: a stronger pose model as .ckpt, .onnx or .tflite.")
        if self.path is not None and not Path(self.path).is_file():
            raise HeatposeError(f"Teacher '{self.path}' does not exist; set distill.path to a .ckpt, .onnx or .tflite file.")
        self.names()
        self.values()

    def names(self) -> Skeleton | None:
        """The skeleton that is set, if one is.

        Raises:
            HeatposeError: There is none of that name.
        """
        return None if self.skeleton is None else named(self.skeleton)

    def values(self) -> Normalisation | None:
        """The normalisation that is set, if one is.

        Raises:
            HeatposeError: It is not understood.
        """
        return None if self.normalisation is None else Normalisation.parse(self.normalisation)
