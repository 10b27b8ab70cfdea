"""Export a checkpoint, or imported weights, as a proven bundle: `uv run export.py checkpoint=PATH name=NAME`; `heatpose export` is the same."""

from __future__ import annotations

from heatpose.entries.export import main

if __name__ == "__main__":
    main()
