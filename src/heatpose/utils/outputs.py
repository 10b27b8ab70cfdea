"""Files that commands write: whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes u8[H, W, 3] in the format that the path ends in.

    Raises:
        HeatposeError: The path cannot be written, or its ending is no image format.
    """
    from PIL import Image

    _write_whole(
        path,
        lambda part: Image.fromarray(image).save(part),
        "give a path that ends in .png or .jpg",
    )


def require_writable(*paths: Path | None) -> None:
    """Refuses paths that could not be written in the end, before hours of work for them.

    Raises:
        HeatposeError: A path is a folder, or lies below a file or in a folder without the right to
            write.
    """
    for path in paths:
        if path is None:
            continue
        reason = (
            "it is a folder"
            if path.is_dir()
            else _refusal(next(folder for folder in path.absolute().parents if folder.exists()))
        )
        if reason:
            raise HeatposeError(
                f"'{path}' cannot be written ({reason}); give the path of a file in a folder of"
                " yours."
            )


def _refusal(folder: Path) -> str:
    """Why nothing can be made in a folder; empty where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def write_json(path: Path | None, content: dict[str, Any] | list[Any]) -> None:
    """Writes plain values; nothing where no path is given.

    Raises:
        HeatposeError: The path cannot be written.
    """
    if path is not None:
        text = json.dumps(content, indent=1)
        _write_whole(
            path, lambda part: part.write_text(text, encoding="utf-8"), "give the path of a file"
        )


def _write_whole(path: Path, write: Callable[[Path], object], advice: str) -> None:
    """Writes a temporary sibling with the same ending and renames it.

    So that a file is whole or absent.
    """
    part = path.with_name(f".{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HeatposeError(f"'{path}' cannot be written ({reason}); {advice}.") from error
    finally:
        with contextlib.suppress(OSError):  # gone, or its folder is none: the error above says so
            part.unlink(missing_ok=True)
