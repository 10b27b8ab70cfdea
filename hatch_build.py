"""Build hook: released networks that are marked for it become part of the wheel and the sdist.

A network is marked by `released.package` in its `manifest.json`. A checkout without any builds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RELEASED = "exports/released"


class ReleasedNetworks(BuildHookInterface):
    """Adds the files of each marked network that its manifest lists, and the manifest itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before an archive is written; an editable install needs no copy."""
        if version == "editable":
            return
        place = RELEASED if self.target_name == "sdist" else "heatpose/released"
        for manifest in sorted(Path(self.root, RELEASED).glob("*/manifest.json")):
            content = json.loads(manifest.read_text(encoding="utf-8"))
            if content["released"]["package"]:
                for name in ("manifest.json", *content["files"]):
                    source = manifest.with_name(name)
                    build_data["force_include"][str(source)] = (
                        f"{place}/{manifest.parent.name}/{name}"
                    )
