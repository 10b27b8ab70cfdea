"""What a run has done so far, beside the file that it will write: a header, then a line per image.

A killed process leaves whole lines and at most one broken one, which is dropped. The lines are all
that the result is made of, so an interrupted run and an uninterrupted one give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError

SUFFIX = ".partial"
Record = dict[str, Any]
"""Plain values of one image: `file`, `bytes` and `mtime_ns` of the file, then either `error` or
`width`, `height` and `instances` (a list of `labeller.Entry`)."""


class Partial:
    """The records of a run, on disk; used as a context, which closes the file.

    Args:
        out: The file that the run will write.
        header: What must be the same for a run to go on: plain values.

    Raises:
        HeatposeError: The run that it holds has another header.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self.path = out.with_name(out.name + SUFFIX)
        self.records: dict[str, Record] = {}
        whole = self._read(header) if self.path.is_file() else 0
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._write(dict(header))

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Keeps the record of an image; it outlives a kill from here on."""
        self._write(record)
        self.records[record["file"]] = record

    def remove(self) -> None:
        """Removes the file: the run has come to its end."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def _read(self, header: Mapping[str, Any]) -> int:
        """Fills `records`; returns how many bytes of the file are whole lines."""
        whole, known = 0, False
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                content = json.loads(line if line.endswith(b"\n") else b"")
                if known:
                    self.records[content["file"]] = content
                else:
                    self._check(content, header)
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # a kill broke the line off
            known = True
            whole += len(line)
        return whole

    def _check(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(header))
        if found != wanted:
            different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise HeatposeError(
                f"'{self.path}' holds an unfinished run with another {', '.join(different)}; "
                "give the settings of that run to go on, or remove the file to start anew."
            )
