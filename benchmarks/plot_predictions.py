"""Draws the poses of a released network on rendered people into one picture.

    uv run python benchmarks/plot_predictions.py --out docs/pictures/predictions.jpg

The people are those of the quick start's evaluation images; the network has not seen any of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from heatpose.data.synthetic.dataset import SyntheticSettings, render_scene

HEIGHT, WIDTH, COLUMNS = 260, 200, 6


def main() -> None:
    """Renders, predicts and joins the drawings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=12)
    arguments = parser.parse_args()
    settings = SyntheticSettings(short_side=400)
    with tempfile.TemporaryDirectory() as temporary:
        people, drawn = Path(temporary) / "people", Path(temporary) / "drawn"
        people.mkdir()
        for number in range(4 * arguments.images):
            scene = render_scene(settings, "val", number)
            if scene.image.height > scene.image.width:  # one shape fills the rows
                scene.image.save(people / f"{number:03}.png")
        files = sorted(people.iterdir())
        for extra in files[arguments.images :]:
            extra.unlink()
        command = [sys.executable, "-m", "heatpose.cli", "predict", people, "--out", drawn]
        subprocess.run(list(map(str, command)), check=True)
        tiles = [Image.open(path).convert("RGB") for path in sorted(drawn.glob("*_pose.*"))]
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT), "white")
    for number, tile in enumerate(tiles):
        place = (number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT)
        page.paste(tile.resize((WIDTH, HEIGHT)), place)
    page.save(arguments.out, quality=85)


if __name__ == "__main__":
    main()
