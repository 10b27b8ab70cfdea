"""`report.html`: a self-contained page on one bundle, or a comparison of several.

Missing parts of a bundle are listed on the page. The page loads no external resources and forbids
them by its content security policy.

To add a section: 1. write a function from bundles to the variables of its template;
2. `templates/sections/<key>.html.j2`, made of the macros in `templates/macros`; 3. list both in
`page.render`.
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
    """Writes a page on one bundle, or a comparison of several, atomically.

    Args:
        bundles: Folders of bundles; the others are compared with the first.
        out: Output file. For a bundle's own `report.html` the hash in its manifest is updated.
        title: Title of the page; None for the names of the bundles.
        images: Folder of the evaluation set's images, if they have moved since the export.
        show_images: Embed predictions on those images in the page.

    Returns:
        `out`.

    Raises:
        HeatposeError: There are no bundles, a folder is not a bundle, or the page cannot be
            written.
    """
    # Imported here: templates and plots are not needed for `heatpose --help`.
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
