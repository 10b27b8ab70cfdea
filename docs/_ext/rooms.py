"""The diagram of the rooms of the package, drawn from the import contract in pyproject.toml."""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

BANDS = {
    "cli": "commands",
    "export": "export and deployment",
    "training": "training",
    "label": "inference and scores",
    "models": "network, data, files",
    "utils": "base",
}
"""First room of a band, in the order of the contract -> the band's title."""
WIDTH, ROOM, HEIGHT, GAP, TITLE = 720, 108, 34, 10, 22
FILL, LINE, TEXT = "#e8f0fa", "#5b7ba8", "#1d2c40"


def layers(pyproject: Path) -> list[str]:
    """The rooms of the contract, the highest first."""
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    (contract,) = (c for c in content["tool"]["importlinter"]["contracts"] if "layers" in c)
    return [str(layer) for layer in contract["layers"]]


def svg(rooms: list[str]) -> str:
    """Rooms in bands, the highest first; a room imports from rooms to its right and below."""
    bands: list[tuple[str, list[str]]] = []
    for room in rooms:
        if room in BANDS or not bands:
            bands.append((BANDS.get(room, ""), []))
        bands[-1][1].append(room)
    parts, top = [], GAP
    for title, names in bands:
        parts.append(_text(GAP, top + TITLE - 8, title, "start", 13))
        top += TITLE
        for number, name in enumerate(names):
            left = GAP + number * (ROOM + GAP)
            parts.append(
                f'<rect x="{left}" y="{top}" width="{ROOM}" height="{HEIGHT}" rx="5" '
                f'fill="{FILL}" stroke="{LINE}"/>'
            )
            parts.append(_text(left + ROOM // 2, top + 22, name, "middle", 14))
        top += HEIGHT + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: int, y: int, text: str, anchor: str, size: int) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{TEXT}">'
        f"{escape(text)}</text>"
    )
