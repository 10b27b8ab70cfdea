"""The metadata of exported files, read with the schema of the file format alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatpose.bundles.facts import LONGEST, METADATA, FileFacts, known_facts
from heatpose.errors import HeatposeError

_MOST = 1000  # entries of a file's list; converters write two


def tflite_facts(path: Path) -> FileFacts:
    """Facts from a TFLite file's metadata, else from the manifest beside it.

    Raises:
        HeatposeError: The text or the manifest cannot be understood.
    """
    return known_facts(path, tflite_metadata(path))


def onnx_facts(path: Path, entries: Mapping[str, str]) -> FileFacts:
    """Facts from an ONNX file's `metadata_props`, else from the manifest beside it.

    Raises:
        HeatposeError: The text or the manifest cannot be understood.
    """
    return known_facts(
        path, entries[METADATA].encode("utf-8", "replace") if METADATA in entries else None
    )


def tflite_metadata(path: Path) -> bytes | None:
    """The buffer of the entry `METADATA` in a TFLite file's `metadata`; None where there is none.

    Args:
        path: A file that `tflite.reader.read_graph` has read.

    Raises:
        HeatposeError: The list or the buffer is damaged.
    """
    import tflite  # some 200 modules: loaded when a file is read

    try:
        content = path.read_bytes()
        return _entry(tflite.Model.GetRootAs(content), content)
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (
        struct.error,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        raise HeatposeError(
            f"'{path}' has a damaged list of metadata; get the file again."
        ) from error


def _entry(model: Any, content: bytes) -> bytes | None:
    for i in range(min(model.MetadataLength(), _MOST)):
        entry = model.Metadata(i)
        if entry.Name() != METADATA.encode():
            continue
        if entry.Buffer() >= model.BuffersLength():
            raise IndexError(entry.Buffer())
        buffer = model.Buffers(entry.Buffer())
        if buffer.Offset() > 1:  # 0 and 1 mean "not outside"
            return content[buffer.Offset() : buffer.Offset() + min(buffer.Size(), LONGEST)]
        return bytes(buffer.DataAsNumpy()[:LONGEST]) if buffer.DataLength() else b""
    return None
