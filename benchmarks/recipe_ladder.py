"""Trains and scores the rungs of the recipe ladder (docs/training.md) from the same weights.

    python benchmarks/recipe_ladder.py --data TRAIN --evaluation DEV \\
        --init movenet_lightning.tflite --teacher TEACHER --out ladder.csv

TRAIN and DEV are folders in COCO's layout, as data.root and data.eval_root take. Everything after
`--` goes to train.py for every rung, for example `-- skeleton=st13 resolution=256
data.extra=[MORE]`. Rungs with scores in --runs are not trained again, and an interrupted one
is continued.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[1]
RECIPES = ["--config-dir", str(Path(__file__).parent / "conf")]
"""Options of train.py that add the ladder's recipes and losses to the configuration."""
RUNGS = ("a0", "a1", "b", "c", "d", "e", "f", "g")
FIELDS = (
    "recipe",
    "seed",
    "epochs",
    "steps",
    "people",
    "images",
    "oks",
    "standard_error",
    "against",
    "gain",
    "gain_low",
    "gain_high",
    "initial_oks",
    "gain_over_initial",
    "over_initial_low",
    "over_initial_high",
    "seconds",
    "overrides",
)


@dataclass(frozen=True)
class Scores:
    """OKS of each evaluation image in percent, and what it is of."""

    values: NDArray[np.float64]
    instances: int = 0
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class Plan:
    """What is common to all rungs."""

    arguments: argparse.Namespace
    overrides: tuple[str, ...]

    @property
    def data(self) -> list[str]:
        found = [f"data.root={self.arguments.data}", f"data.eval_root={self.arguments.evaluation}"]
        return [
            *found,
            *([f"init.path={self.arguments.init}"] if self.arguments.init else []),
            *self.overrides,
        ]

    @property
    def length(self) -> list[str]:
        """Overrides of a run's length: in steps, the same for all rungs, or in epochs.

        Epochs have more steps if there are more training instances.
        """
        if self.arguments.steps is None:
            return [f"trainer.max_epochs={self.arguments.epochs}"] if self.arguments.epochs else []
        every = max(1, self.arguments.steps // self.arguments.checks)
        steps = every * max(1, self.arguments.steps // every)
        return [
            f"+trainer.max_steps={steps}",
            "trainer.max_epochs=-1",
            f"+trainer.val_check_interval={every}",
            "+trainer.check_val_every_n_epoch=null",
        ]

    def command(self, recipe: str, seed: int) -> list[str]:
        teacher = [f"distill.path={self.arguments.teacher}"] if recipe == "g" else []
        return [f"recipe=ladder_{recipe}", f"seed={seed}", *self.data, *self.length, *teacher]

    def key(self, overrides: Sequence[str]) -> str:
        return hashlib.sha256(json.dumps(list(overrides)).encode()).hexdigest()[:8]


def train(plan: Plan, name: str, overrides: Sequence[str]) -> float:
    """Runs train.py to its end, with its own progress on the terminal.

    Returns the seconds it took.
    """
    start = time.perf_counter()
    places = [f"name={name}", f"runs={plan.arguments.runs}", "export=false", "evaluate=false"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *RECIPES, *overrides, *places], check=False
    )
    if done.returncode:
        sys.exit(
            f"{name} failed with status {done.returncode}; the same command goes on from there."
        )
    return time.perf_counter() - start


def score(plan: Plan, name: str, checkpoint: Path, seconds: float) -> Scores:
    """Scores of a checkpoint by the published protocol; they are kept beside the run."""
    kept = plan.arguments.runs / name / "ladder_scores.npz"
    if not kept.is_file():
        # Imported here: the list of what is to be done needs no torch.
        from heatpose.data.sources import CocoSource
        from heatpose.evaluation.evaluate import evaluate
        from heatpose.runners import open_runner

        runner = open_runner(checkpoint)
        assert runner.skeleton is not None
        instances = CocoSource(
            root=str(plan.arguments.data), eval_root=str(plan.arguments.evaluation)
        ).evaluation(runner.skeleton)
        assert instances is not None
        report = evaluate(runner, instances, runner.skeleton)
        part = kept.with_name("part.npz")
        np.savez(
            part,
            values=100 * report.oks_values,
            instances=learnt_from(kept.parent),
            seconds=seconds,
        )
        part.replace(kept)
    found = np.load(kept)
    return Scores(found["values"], int(found["instances"]), float(found["seconds"]))


def learnt_from(folder: Path) -> int:
    """Training people of a run, as its configuration selects them."""
    record = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))[
        "configuration"
    ]
    from omegaconf import OmegaConf

    from heatpose.entries import build

    config = OmegaConf.create(record)
    data = build.build_data(config, *_inputs(config))
    data.setup()
    return len(data.train_instances)


def _inputs(config: object) -> tuple[object, ...]:
    from heatpose.entries import build

    skeleton, preprocessing, source = build.build_inputs(config)
    return source, skeleton, preprocessing


def interval(a: Scores | None, b: Scores) -> tuple[str, str, str]:
    """Mean of b - a over the same images with its paired 95 % bootstrap interval.

    Empty without an a.
    """
    from heatpose.evaluation.metrics import bootstrap_interval

    if a is None:
        return "", "", ""
    difference = b.values - a.values
    low, high = bootstrap_interval(difference)
    return f"{difference.mean():.2f}", f"{low:.2f}", f"{high:.2f}"


def known(path: Path) -> list[dict[str, str]]:
    """The rows of before."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def jobs(plan: Plan) -> Iterator[tuple[str, str | None, int]]:
    """Rung, the one before it, seed: all rungs of a seed, then the next seed."""
    for seed in plan.arguments.seeds:
        before: str | None = None
        for recipe in plan.arguments.rungs:
            yield recipe, before, seed
            before = recipe


def initial(plan: Plan) -> Scores:
    """The scores of the weights that every rung begins with."""
    overrides = ["recipe=ladder_a0", *plan.data, "fit=false"]
    name = f"ladder_initial_{plan.key(overrides)}"
    checkpoint = plan.arguments.runs / name / "checkpoints" / "initial.ckpt"
    seconds = 0.0 if checkpoint.is_file() else train(plan, name, overrides)
    return score(plan, name, checkpoint, seconds)


def run(plan: Plan, recipe: str, seed: int) -> Scores:
    """The scores of a trained rung."""
    overrides = plan.command(recipe, seed)
    name = f"ladder_{recipe}_seed{seed}_{plan.key(overrides)}"
    folder = plan.arguments.runs / name
    seconds = 0.0 if (folder / "ladder_scores.npz").is_file() else train(plan, name, overrides)
    return score(plan, name, folder / "checkpoints" / "best.ckpt", seconds)


def parsed() -> Plan:
    """The command line."""
    own, rest = (
        (sys.argv[1:], [])
        if "--" not in sys.argv
        else (sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :])
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--evaluation", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to begin with, as init.path takes")
    parser.add_argument(
        "--teacher", type=Path, help="for rung g, as distill.path takes; without it g is left out"
    )
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, help="of each rung; the recipes' own without it")
    parser.add_argument(
        "--steps",
        type=int,
        help=(
            "number of steps of every rung, instead of epochs: the same for all, whatever their"
            " number of training instances"
        ),
    )
    parser.add_argument(
        "--checks", type=int, default=10, help="scores on the held-out people in a run of --steps"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args(own)
    if arguments.teacher is None and "g" in arguments.rungs:
        print("Rung g is left out: it needs --teacher.")
        arguments.rungs = [rung for rung in arguments.rungs if rung != "g"]
    return Plan(arguments, tuple(rest))


def main() -> None:
    """Trains and scores what is missing, and appends it row by row."""
    plan = parsed()
    rows, todo, finished = (
        known(plan.arguments.out),
        list(jobs(plan)),
        dict[tuple[str, int], Scores](),
    )
    start = initial(plan)
    print(f"Initial weights: {start.mean:.2f} % OKS over {len(start.values)} images.")
    for number, (recipe, before, seed) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] rung {recipe}, seed {seed}", flush=True)
        scores = finished[recipe, seed] = run(plan, recipe, seed)
        line = (
            recipe,
            str(seed),
            str(plan.arguments.epochs or ""),
            str(plan.arguments.steps or ""),
            str(scores.instances),
            str(len(scores.values)),
        )
        overrides = " ".join(plan.command(recipe, seed))
        gain, gained = (
            interval(finished.get((before, seed)) if before else None, scores),
            interval(start, scores),
        )
        beside = f", {gain[0]} [{gain[1]}, {gain[2]}] over {before}" if before else ""
        print(
            f"    {scores.mean:.2f} % OKS; {gained[0]} [{gained[1]}, {gained[2]}] over the initial"
            f" weights{beside}"
        )
        if any(
            row["recipe"] == recipe
            and row["overrides"] == overrides
            and row["against"] == (before or "")
            for row in rows
        ):
            continue
        spread = scores.values.std(ddof=1) / np.sqrt(len(scores.values))
        row = [
            *line,
            f"{scores.mean:.2f}",
            f"{spread:.2f}",
            before or "",
            *gain,
            f"{start.mean:.2f}",
            *gained,
            f"{scores.seconds:.0f}",
            overrides,
        ]
        with plan.arguments.out.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
