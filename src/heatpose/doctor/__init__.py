"""Checks of `heatpose doctor`: status ok, warn or fail, with remedy.

To add a check: return a `Check` from a function in `checks.py` or `machine.py` and call it in
`examine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heatpose.doctor.checks import (
    Check,
    Status,
    installed_versions,
    known_bad,
    python_check,
    requirement_checks,
    unmet_checks,
)
from heatpose.doctor.machine import data_checks, device_checks, disk_checks, program_checks


def examine(data: Path | None = None) -> list[Check]:
    """Runs all checks. Imports torch only if there is a GPU, to test whether torch can use it.

    Args:
        data: Folder of a data set to check, if any.
    """
    versions = installed_versions()
    return [
        python_check(),
        *requirement_checks(versions),
        *known_bad(versions),
        *unmet_checks(versions),
        *device_checks(),
        *disk_checks([Path.cwd(), *([] if data is None else [data])]),
        *program_checks(versions),
        *([] if data is None else data_checks(data)),
    ]


def worst(checks: Sequence[Check]) -> Status:
    """The worst status."""
    order: tuple[Status, ...] = ("ok", "warn", "fail")
    return max((check.status for check in checks), key=order.index)


def to_json(checks: Sequence[Check], steps: Sequence[Check] = ()) -> dict[str, Any]:
    """Plain values: worst status, all checks, and the steps of a trial run, if any."""
    trial = {"steps": [step.to_json() for step in steps]} if steps else {}
    everything = [*checks, *steps]
    return {"status": worst(everything), "checks": [c.to_json() for c in checks], **trial}
