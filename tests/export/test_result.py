"""What an export shows while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from heatpose.export.result import Steps


def test_a_log_shows_each_step_and_its_parts_when_they_begin() -> None:
    """Minutes without a line look like a hang."""
    file = io.StringIO()
    steps = Steps(Console(file=file, width=100))
    with steps.step("int8_pc", "Quantisation [int8_pc]") as update:
        assert file.getvalue() == "… Quantisation [int8_pc]\n"
        update("int8_pc: qat")
        assert file.getvalue().endswith("… int8_pc: qat\n")
    assert file.getvalue().splitlines()[-1].startswith("✓ Quantisation [int8_pc] ")
    assert steps.seconds["int8_pc"] >= 0


def test_a_terminal_keeps_one_line_for_each_step() -> None:
    file = io.StringIO()
    with Steps(Console(file=file, width=100, force_terminal=True)).step("onnx", "Torch to ONNX"):
        pass
    assert "…" not in file.getvalue() and "✓" in file.getvalue()
