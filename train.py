"""Trains, scores and exports a network: `uv run train.py experiment=quickstart`.

The same as `heatpose train`.
"""

from __future__ import annotations

from heatpose.entries.jobs import train_main as main

if __name__ == "__main__":
    main()
