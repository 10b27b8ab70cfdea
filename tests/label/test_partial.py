"""Records on disk: what was added is there again, and only whole lines of the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from heatpose.errors import HeatposeError
from heatpose.label.partial import Partial

HEADER = {"teacher": "a", "settings": {"score": 0.3}}


def _filled(out: Path) -> Partial:
    with Partial(out, HEADER) as partial:
        for name in ("a", "b", "a"):
            partial.add({"file": name, "number": len(partial.records)})
    return partial


def test_what_was_added_is_there_again_the_last_of_a_file_counts(tmp_path: Path) -> None:
    _filled(tmp_path / "out.json")
    with Partial(tmp_path / "out.json", HEADER) as again:
        assert again.records == {"a": {"file": "a", "number": 2}, "b": {"file": "b", "number": 1}}


def test_whatever_is_cut_off_the_whole_lines_count(tmp_path: Path) -> None:
    """Cut after each byte: the records are those whose line is whole, and more can be added."""
    path = _filled(tmp_path / "out.json").path
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        lines = max(0, whole[:length].count(b"\n") - 1)
        with Partial(tmp_path / "out.json", HEADER) as partial:
            assert len(partial.records) == min(lines, 2)
            partial.add({"file": "c"})
        with Partial(tmp_path / "out.json", HEADER) as partial:
            assert len(partial.records) == min(lines, 2) + 1


def test_another_run_is_refused_until_its_file_is_removed(tmp_path: Path) -> None:
    path = _filled(tmp_path / "out.json").path
    with pytest.raises(HeatposeError, match="another settings, teacher; .* or remove the file"):
        Partial(tmp_path / "out.json", {"teacher": "b", "settings": {}})
    path.unlink()
    Partial(tmp_path / "out.json", {"teacher": "b", "settings": {}}).remove()
    assert not path.exists()
