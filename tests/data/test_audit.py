"""The account of what was left out and assumed: every number in it, once."""

from __future__ import annotations

import pytest

from heatpose.data.audit import Audit, tell_once


def test_the_account_has_every_number() -> None:
    audit = Audit(annotations=9, kept=5)
    for _ in range(3):
        audit.drop("too small", 7)
    audit.drop("crowd", 8)
    audit.assumed["box made"] += 2
    assert (
        audit.account("labels.json", "usable")
        == "labels.json: 5 of 9 person annotations usable; left out: too small (3), crowd (1);"
        " assumed: box made (2)."
    )
    assert audit.examples == {"too small": [7], "crowd": [8]}


def test_where_nothing_was_left_out_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell_once(Audit(annotations=9, kept=9).account("labels.json", "usable"))
    assert capsys.readouterr().err == ""


def test_a_line_is_told_once_and_by_the_first_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in ("first line of this test", "first line of this test", "second line of this test"):
        tell_once(line)
    monkeypatch.setenv("LOCAL_RANK", "1")
    tell_once("third line of this test")
    assert capsys.readouterr().err == "first line of this test\nsecond line of this test\n"
