"""What `heatpose doctor` looks at, a check a line: ok, warn or fail, and what to do."""

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
    """All checks. Loads torch where there is a GPU, for torch alone knows whether it can be used.

    And no other heavy package.

    Args:
        data: Folder of a data set, if one is to be looked at.
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
    """The worst status among them."""
    order: tuple[Status, ...] = ("ok", "warn", "fail")
    return max((check.status for check in checks), key=order.index)


def to_json(checks: Sequence[Check], steps: Sequence[Check] = ()) -> dict[str, Any]:
    """Plain values: the worst status, all checks, and the steps of a trial where there was one."""
    trial = {"steps": [step.to_json() for step in steps]} if steps else {}
    everything = [*checks, *steps]
    return {"status": worst(everything), "checks": [c.to_json() for c in checks], **trial}
