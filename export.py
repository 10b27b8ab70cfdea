"""Exports a checkpoint as a validated bundle: `uv run export.py checkpoint=PATH name=NAME`.

The same as `heatpose export`.
"""

from __future__ import annotations

from heatpose.entries.jobs import export_main as main

if __name__ == "__main__":
    main()
