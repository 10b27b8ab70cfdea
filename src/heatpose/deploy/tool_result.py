"""Result of a run of ST Edge AI Core: `result.json`, and the diagnosis of failures.

To add an error of the tool: append its pattern and a sentence with the remedy to `_CAUSES`, before
the general patterns at its end. The texts are those of versions 2.0 to 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heatpose.deploy.reports import Facts, ReportError, merged, read_c_info, read_text_report
from heatpose.deploy.targets import Target
from heatpose.utils.files import read_json_object, write_json
from heatpose.utils.process import Ended

KIB = 1024


@dataclass(frozen=True)
class ToolResult:
    """Result of a build, a measurement or an import.

    Attributes:
        target: Name of the target.
        status: "built", "validated" (and measured on a board), "failed" or "imported".
        facts: Values of the reports.
        tool: Path, version and components of the tool, plain values; empty for an import.
        command: Shell command of the build.
        exit_status: Exit status of the build; None if it was killed or imported.
        seconds: Duration of the build.
        products: File names of the products.
        warnings: Sentences.
        over_budget: Sentences on what exceeds the target's budget.
        failure: Cause of failure.
        model_sha256: SHA-256 of the model, if known.
    """

    target: str
    status: str
    facts: Facts = field(default_factory=Facts)
    tool: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    exit_status: int | None = None
    seconds: float | None = None
    products: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    over_budget: tuple[str, ...] = ()
    failure: Diagnosis | None = None
    model_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Content of `result.json`; sizes in KiB (1024 bytes), times in milliseconds."""
        facts = self.facts
        return {
            "target": self.target,
            "status": self.status,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": facts.model,
            "model_sha256": self.model_sha256,
            "tool": dict(self.tool) or None,
            "tool_version": facts.tool_version,
            "compiler_version": facts.compiler_version,
            "command": self.command,
            "exit_status": self.exit_status,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "ram_internal_kib": _kib(facts.ram_internal),
            "ram_external_kib": _kib(facts.ram_external),
            "flash_kib": _kib(facts.flash),
            "runtime_flash_kib": _kib(facts.runtime_flash),
            "runtime_ram_kib": _kib(facts.runtime_ram),
            "macc": facts.macc,
            "epochs": {
                "hardware": facts.epochs_hw,
                "software": facts.epochs_sw,
                "hybrid": facts.epochs_hybrid,
            },
            "software_operators": (
                None
                if facts.software is None
                else [asdict(operator) for operator in facts.software]
            ),
            "ms": facts.ms,
            "device": facts.device,
            "rmse": facts.rmse,
            "cosine": facts.cosine,
            "pools": None if facts.pools is None else [asdict(pool) for pool in facts.pools],
            "products": list(self.products),
            "warnings": list(self.warnings),
            "over_budget": list(self.over_budget),
            "failure": None if self.failure is None else asdict(self.failure),
            "log": "stedgeai.log",
        }

    def write(self, path: Path) -> None:
        """Writes `result.json` atomically."""
        write_json(path, self.to_json())


def _kib(count: int | None) -> float | None:
    return None if count is None else round(count / KIB, 2)


def collect(files: Iterable[Path]) -> tuple[Facts, list[str]]:
    """Merges the values of all c_info files and text reports.

    All are read, because a validation overwrites the build's c_info by one without sizes.

    Returns:
        Merged values, and warnings about c_info files that cannot be parsed.
    """
    ordered = sorted(files)
    infos = [path for path in ordered if path.name.endswith((".json",)) and "c_info" in path.name]
    texts = [
        path for path in ordered if path.suffix in (".txt", ".log") and path.name != "LICENSE.txt"
    ]
    reports, warnings = [], []
    for path in infos:
        try:
            reports.append(read_c_info(path))
        except ReportError as error:
            message = str(error).replace(str(path), path.name)  # the folder may be temporary
            warnings.append(f"{message} The text report is used instead.")
    for path in texts:
        try:
            reports.append(read_text_report(path))
        except ReportError:  # other text files beside the reports
            continue
    # Reports with sizes of a build take precedence.
    return merged(sorted(reports, key=lambda facts: not facts.declares_sizes())), warnings


def budget_excess(facts: Facts, target: Target) -> tuple[str, ...]:
    """Sentences on what exceeds the target's budget."""
    found = []
    ram, flash, budget = _kib(facts.ram_internal), _kib(facts.flash), target.budget
    if budget.ram_kib is not None and ram is not None and ram > budget.ram_kib:
        found.append(f"RAM is {ram:.0f} KiB, over the budget of {budget.ram_kib:.0f} KiB.")
    if facts.ram_external and budget.ram_kib is not None:
        found.append(
            f"{facts.ram_external / KIB:.0f} KiB of activations lie in external RAM, which is"
            " several times slower."
        )
    if budget.flash_kib is not None and flash is not None and flash > budget.flash_kib:
        found.append(f"Weights are {flash:.0f} KiB, over the budget of {budget.flash_kib:.0f} KiB.")
    if budget.ms is not None and facts.ms is not None and facts.ms > budget.ms:
        found.append(
            f"One inference takes {facts.ms:.1f} ms, over the budget of {budget.ms:.1f} ms."
        )
    return tuple(found)


def read_result(path: Path) -> dict[str, Any] | None:
    """Content of `result.json`; None if it is missing or damaged."""
    return read_json_object(path)


@dataclass(frozen=True)
class Diagnosis:
    """Cause of a failure.

    Attributes:
        code: "E103", "TOOL ERROR", "time limit", "signal", "no output", "unknown".
        line: The tool's error line; empty if there is none.
        sentence: Meaning and remedy.
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


# The first match in the whole output is used. {1} and so on are groups of the pattern.
_CAUSES = (
    _known(
        r"wstring_convert|std::range_error",
        "The NPU compiler crashes on paths that are not plain ASCII; set TMPDIR to a folder with a"
        " plain name.",
    ),
    _known(
        r"Error during NBG compilation",
        "The NPU's compiler rejects the network; use per-tensor int8 weights, no dense layers and"
        " no dynamic shapes, and see the E lines of the log.",
    ),
    _known(
        r"E010.*Non-numerical or not-string elements",
        "The file holds a non-numeric parameter, as ONNX exports of newer tools do; use the TFLite"
        " instead.",
    ),
    _known(
        r"E010.*Unrecognized keyword arguments",
        "Keras files of version 3.3 or newer are not supported; use the TFLite instead.",
    ),
    _known(
        r"E102.*Validation on host is not supported",
        "Validation on the PC is not supported for this target; connect the board and give --board"
        " serial:921600.",
    ),
    _known(
        r"E102.*not supported with the 'st-ai' c-api",
        "An address option is incompatible with the st-ai C API; remove it from tool.options of the"
        " target.",
    ),
    _known(
        r"total bytes left unallocated=(\d+)",
        "The board's memories are {1} bytes too small for the network; choose a smaller resolution"
        " or width, or add external RAM to the target.",
    ),
    _known(
        r"E103.*Neural Art compiler",
        "The NPU's compiler failed: an operator is not supported, or memory is insufficient; run"
        " `heatpose inspect --target` and see the log.",
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
        "The board does not respond; check cable, power, port and that no other program uses the"
        " port, then try --board serial:PORT:921600.",
    ),
    _known(
        r"ir_version (\d+) is higher",
        "The IR version {1} of the ONNX file is not supported; use the TFLite instead.",
    ),
    _known(
        r"INTERNAL ERROR: Exported ONNX could be malformed",
        "The graph could not be converted; `heatpose inspect --target` lists unusual operators;"
        " use a TFLite of a standard export.",
    ),
    _known(
        r"NOT IMPLEMENTED: ([^\r\n]*)",
        "The network uses something that is not implemented ({1}); run `heatpose inspect --target`"
        " and export without that operator.",
    ),
    _known(
        r"TOOL ERROR: ([^\r\n]*)",
        "Internal error ({1}); try another version of ST Edge AI Core, and report it to ST with"
        " the log.",
    ),
    _known(
        r"INTERNAL ERROR: ([^\r\n]*)",
        "Internal error ({1}); try another version of ST Edge AI Core, and report it to ST with"
        " the log.",
    ),
    _known(
        r"E010",
        "The file is not accepted as a model; check it with `heatpose inspect` and export again.",
    ),
    _known(
        r"E102",
        "An option is rejected; the command is at the top of the log, the installed version may"
        " need others (tool.options of the target).",
    ),
    _known(
        r"(E\d{3}\(\w+\)[^\r\n]*)",
        "Unknown error ({1}); see the log.",
    ),
)
_ERROR_LINE = re.compile(
    r"(E\d{3}\(\w+\)[^\r\n]*|(?:TOOL|INTERNAL|LOAD) ERROR[^\r\n]*|NOT IMPLEMENTED[^\r\n]*)"
)
_CODE = re.compile(r"E\d{3}|[A-Z ]+ERROR|NOT IMPLEMENTED")
_QUESTION = re.compile(r"([^\r\n]*(?:\?|\[y/n\]|\(y/n\)|yes/no)[^\r\n]*)\s*$", re.IGNORECASE)
_BAR = re.compile(r"^[^\S\n]*PASS:.*$", re.MULTILINE)
"""A progress bar; it shows an unknown remaining time as "?"."""
_WARNING = re.compile(r"^\s*(?:WARNING|Warning):\s*([^\r\n]+)", re.MULTILINE)


def diagnose(ended: Ended, product: str) -> Diagnosis:
    """Finds the cause of a run without a product.

    Args:
        ended: Result of the process.
        product: Description of the missing product.
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
            f"ST Edge AI Core did not finish within {ended.seconds:.0f} s and was stopped; raise"
            f" --time-limit.{why}",
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
            f"ST Edge AI Core crashed (signal {-ended.status}); see the end of the log.",
        )
    if ended.status == 0:
        return Diagnosis(
            "no output",
            line,
            f"ST Edge AI Core reported success, but wrote no {product}; see the log, and run the"
            " command manually.",
        )
    return Diagnosis(
        "unknown",
        line,
        f"ST Edge AI Core ended with status {ended.status} and wrote no {product}; see the log.",
    )


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]).strip() if found else ""


def warnings_in(text: str) -> list[str]:
    """Relevant warnings of the tool, without duplicates."""
    found = dict.fromkeys(line.strip() for line in _WARNING.findall(text.replace("\r", "\n")))
    unquantised = [line for line in found if line.endswith("is not quantized")]
    kept = [line for line in found if line not in unquantised and "signature checking" not in line]
    if unquantised:
        kept.append(
            f"{len(unquantised)} tensors are not quantised and run in float on the processor, the"
            f" first: {unquantised[0]}"
        )
    return kept
