"""Duration of an export by step.

From a checkpoint to all three TFLite files with their acceptance checks, without scoring.

    python benchmarks/export_time.py CHECKPOINT --train TRAIN

TRAIN is a folder in COCO's layout, for the calibration. Everything happens in one fresh process,
imports included.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import argparse  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from heatpose.data.sources import CocoSource  # noqa: E402
from heatpose.entries.evaluate_and_export import export  # noqa: E402
from heatpose.quantize.settings import ExportConfig  # noqa: E402


def main() -> None:
    """Exports into a temporary folder and prints the seconds of each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--train", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = CocoSource(root=arguments.train)
        result = export(
            arguments.checkpoint,
            source,
            Path(folder) / "timed",
            ExportConfig(),
            run_config={},
            score=False,
        )
    total = time.perf_counter() - START
    table = Table(
        "step", "seconds", title="checkpoint to three TFLite files with acceptance checks"
    )
    for step, seconds in result.seconds.items():
        table.add_row(step, f"{seconds:.1f}")
    table.add_row("imports, labels, rest", f"{total - sum(result.seconds.values()):.1f}")
    table.add_row("all", f"{total:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
