"""Train a network, score it, export it: `uv run train.py experiment=quickstart`; `heatpose train` is the same."""

from __future__ import annotations

from heatpose.entries.train import main

if __name__ == "__main__":
    main()
