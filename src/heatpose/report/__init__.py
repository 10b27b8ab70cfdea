"""`report.html`: what bundles are worth, on one page that needs nothing beside itself.

What is missing in a bundle is said on the page in a sentence. The page loads nothing from anywhere,
and forbids it to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heatpose.errors import HeatposeError
from heatpose.report.bundle import read_bundles

REPORT = "report.html"
"""Name of a bundle's own report."""


def write_report(
    bundles: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    images: Path | None = None,
    show_images: bool = True,
) -> Path:
    """Writes one page about one bundle, or one that compares several; whole or not at all.

    Args:
        bundles: Folders of bundles; several share tables and plots, the first is what the others
            are compared with.
        out: The page. Where it is a bundle's own `report.html`, the manifest there learns its new
            hash.
        title: Of the page; made of the bundles' names where None.
        images: Folder of the evaluation set's images, where they no longer lie where the export
            found them.
        show_images: Shows predictions on those images; they become part of the page.

    Returns:
        `out`.

    Raises:
        HeatposeError: No bundles, a folder is none, or the page cannot be written.
    """
    # Imported here: templates and plots are of no use to `heatpose --help`.
    from heatpose.bundles.bundle import renew_entry
    from heatpose.report.page import render
    from heatpose.utils.files import output_file

    if not bundles:
        raise HeatposeError("There is no bundle to report on; give folders below exports/.")
    page = render(read_bundles(bundles), title=title, images=images, show_images=show_images)
    with output_file(out, "give the path of a file with --out") as part:
        part.write_text(page, encoding="utf-8")
    renew_entry(out)
    return out
