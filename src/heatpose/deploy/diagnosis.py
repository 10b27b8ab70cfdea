"""What went wrong in a run of ST Edge AI Core, as a sentence with a remedy.

The texts are those of its versions 2.0 to 4.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from heatpose.utils.process import Ended


@dataclass(frozen=True)
class Diagnosis:
    """A failure.

    Attributes:
        code: "E103", "TOOL ERROR", "time limit", "signal", "no output", "unknown".
        line: The tool's own line; empty where there is none.
        sentence: What it means and what to do.
    """

    code: str
    line: str
    sentence: str


@dataclass(frozen=True)
class _Known:
    pattern: re.Pattern[str]
    sentence: str


def _known(pattern: str, sentence: str) -> _Known:
    return _Known(re.compile(pattern, re.DOTALL), sentence)


# The first that fits the whole output counts. {1} and so on are groups of the pattern.
_CAUSES = (
    _known(
        r"wstring_convert|std::range_error",
        "The NPU compiler crashes on paths that are not plain ASCII; set TMPDIR to a folder with a"
        " plain name.",
    ),
    _known(
        r"Error during NBG compilation",
        "The NPU's compiler refuses the network; use per-tensor int8 weights, no dense layers and"
        " no dynamic shapes, and see the E lines of the log.",
    ),
    _known(
        r"E010.*Non-numerical or not-string elements",
        "The file holds a parameter that is no number, as ONNX exports of newer tools do; hand over"
        " the TFLite instead.",
    ),
    _known(
        r"E010.*Unrecognized keyword arguments",
        "A Keras file of version 3.3 or newer cannot be read by it; hand over the TFLite instead.",
    ),
    _known(
        r"E102.*Validation on host is not supported",
        "Validation on the PC does not exist for this target; connect the board and give --board"
        " serial:921600.",
    ),
    _known(
        r"E102.*not supported with the 'st-ai' c-api",
        "An address option does not go with the st-ai C API; remove it from tool.options of the"
        " target.",
    ),
    _known(
        r"total bytes left unallocated=(\d+)",
        "The board's memories are {1} bytes too small for the network; choose a smaller resolution"
        " or width, or add external RAM to the target.",
    ),
    _known(
        r"E103.*Neural Art compiler",
        "The NPU's compiler failed: an operator is not supported, or memory is short; run `heatpose"
        " inspect --target` and see the log.",
    ),
    _known(
        r"E700.*?'unlimited memory': (\d+)",
        "The network needs {1} bytes of RAM, more than the board has; choose a smaller resolution"
        " or width.",
    ),
    _known(
        r"E700|Allocation Pass failed",
        "The network does not fit into the board's RAM; choose a smaller resolution or width.",
    ),
    _known(
        r"E801.*Invalid firmware",
        "The board does not run ST's validation firmware; load it with"
        " scripts/N6_scripts/n6_loader.py of ST Edge AI Core after the build.",
    ),
    _known(r"E801.*No NBG", "There is no .nb file to validate; build first, without --board."),
    _known(
        r"E801|LOAD ERROR",
        "The board does not answer; check cable, power, port and that nothing else uses the port,"
        " then try --board serial:PORT:921600.",
    ),
    _known(
        r"ir_version (\d+) is higher",
        "The ONNX file is too new for it (IR version {1}); hand over the TFLite instead.",
    ),
    _known(
        r"INTERNAL ERROR: Exported ONNX could be malformed",
        "It could not translate the graph; `heatpose inspect --target` names unusual operators;"
        " hand over a TFLite of a plain export.",
    ),
    _known(
        r"NOT IMPLEMENTED: ([^\r\n]*)",
        "The network uses something that it does not implement ({1}); run `heatpose inspect"
        " --target` and export without that operator.",
    ),
    _known(
        r"TOOL ERROR: ([^\r\n]*)",
        "It failed inside ({1}); try another version of ST Edge AI Core, and report it to ST with"
        " the log.",
    ),
    _known(
        r"INTERNAL ERROR: ([^\r\n]*)",
        "It failed inside ({1}); try another version of ST Edge AI Core, and report it to ST with"
        " the log.",
    ),
    _known(
        r"E010",
        "It takes the file for no valid model; check it with `heatpose inspect` and export again.",
    ),
    _known(
        r"E102",
        "It refuses an option; the command is at the top of the log, its version may want others"
        " (tool.options of the target).",
    ),
    _known(
        r"(E\d{3}\(\w+\)[^\r\n]*)",
        "It stopped with an error that is not known here ({1}); the log has more.",
    ),
)
_ERROR_LINE = re.compile(
    r"(E\d{3}\(\w+\)[^\r\n]*|(?:TOOL|INTERNAL|LOAD) ERROR[^\r\n]*|NOT IMPLEMENTED[^\r\n]*)"
)
_CODE = re.compile(r"E\d{3}|[A-Z ]+ERROR|NOT IMPLEMENTED")
_QUESTION = re.compile(r"([^\r\n]*(?:\?|\[y/n\]|\(y/n\)|yes/no)[^\r\n]*)\s*$", re.IGNORECASE)
_BAR = re.compile(r"^[^\S\n]*PASS:.*$", re.MULTILINE)
"""A progress bar, whose unknown rest of the time is written as "?"."""
_WARNING = re.compile(r"^\s*(?:WARNING|Warning):\s*([^\r\n]+)", re.MULTILINE)


def diagnose(ended: Ended, product: str) -> Diagnosis:
    """Why a run has not made its product.

    Args:
        ended: The run.
        product: What should be there.
    """
    text = ended.text.replace("\r", "\n")
    line = _last(_ERROR_LINE, text)
    if ended.status is None:
        question = _QUESTION.search(_BAR.sub("", text).rstrip())
        why = (
            f" It was waiting for an answer to '{question[1].strip()}'; run it once in a terminal"
            " and answer."
            if question
            else ""
        )
        return Diagnosis(
            "time limit",
            line,
            f"ST Edge AI Core did not end within {ended.seconds:.0f} s and was stopped; allow more"
            f" with --time-limit.{why}",
        )
    for known in _CAUSES:
        found = known.pattern.search(text)
        if found is not None:
            code = _CODE.search(line)
            groups = [group.strip() for group in found.groups()]
            return Diagnosis(
                code[0].strip() if code else "unknown", line, known.sentence.format("", *groups)
            )
    if ended.status < 0:
        return Diagnosis(
            "signal",
            line,
            f"ST Edge AI Core crashed (signal {-ended.status}); the log ends with what it did"
            " last.",
        )
    if ended.status == 0:
        return Diagnosis(
            "no output",
            line,
            f"ST Edge AI Core says that it succeeded, but made no {product}; see the log, and run"
            " the command by hand.",
        )
    return Diagnosis(
        "unknown",
        line,
        f"ST Edge AI Core ended with status {ended.status} and made no {product}; the log has its"
        " words.",
    )


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]).strip() if found else ""


def warnings_in(text: str) -> list[str]:
    """The tool's own warnings that matter, each once."""
    found = dict.fromkeys(line.strip() for line in _WARNING.findall(text.replace("\r", "\n")))
    unquantised = [line for line in found if line.endswith("is not quantized")]
    kept = [line for line in found if line not in unquantised and "signature checking" not in line]
    if unquantised:
        kept.append(
            f"{len(unquantised)} tensors are not quantised and run on the processor in float, the"
            f" first: {unquantised[0]}"
        )
    return kept
