"""The code's own rules, counted: sizes, docstrings, and what is not used anywhere."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
ENTRIES = [REPOSITORY / "train.py", REPOSITORY / "export.py"]
FILE_LINES, ENTRY_LINES, FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 500, 60, 100, 20

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _names(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


every_file = pytest.mark.parametrize("path", [*SOURCES, *ENTRIES], ids=_names)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _lines(function: Function) -> int:
    """Of the whole definition, with decorators and docstring."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def _code_lines(function: Function) -> int:
    """Lines of a definition without its docstring, so that complete contracts are not penalised."""
    documented = function.body[0] if ast.get_docstring(function) is not None else None
    text = (documented.end_lineno or 0) - documented.lineno + 1 if documented else 0
    return _lines(function) - text


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Functions and classes of a module that have no underscore.

    And such methods of such classes.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = (entry for entry in node.body if isinstance(entry, Function))
                yield from (
                    (f"{node.name}.{m.name}", m) for m in methods if not m.name.startswith("_")
                )


@every_file
def test_files_are_short(path: Path) -> None:
    limit = ENTRY_LINES if path in ENTRIES else FILE_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@every_file
def test_functions_are_short(path: Path) -> None:
    long = {
        function.name: _lines(function)
        for function in _functions(_tree(path))
        if _lines(function) > FUNCTION_LINES
    }
    assert not long


def test_the_usual_function_is_very_short() -> None:
    lengths = [_code_lines(function) for path in SOURCES for function in _functions(_tree(path))]
    assert len(lengths) > 300 and statistics.median(lengths) <= MEDIAN_FUNCTION_LINES


@every_file
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "no module docstring"
    silent = [name for name, node in _public(tree) if not ast.get_docstring(node)]
    assert not silent


@every_file
def test_nothing_is_hidden(path: Path) -> None:
    """No code out of text, no edited import path, no exception caught without a name."""
    found = []
    for node in ast.walk(_tree(path)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec")
        ):
            found.append(f"{node.func.id}() in line {node.lineno}")
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "path"
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
        ):
            found.append(f"sys.path in line {node.lineno}")
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "sys"
            and any(name.name == "path" for name in node.names)
        ):
            found.append(f"sys.path in line {node.lineno}")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"bare except in line {node.lineno}")
    assert not found


@every_file
def test_checkpoints_are_read_as_data(path: Path) -> None:
    """`torch.load` runs code of the file unless it is told not to."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = [
                word
                for word in node.keywords
                if word.arg == "weights_only" and ast.unparse(word.value) == "True"
            ]
            assert safe, f"torch.load without weights_only=True in line {node.lineno}"


@every_file
def test_only_two_files_know_about_pixel_centres(path: Path) -> None:
    """Half-pixel arithmetic, `(i + 0.5) * scale`, belongs to geometry.py and codec.py."""
    if path.name in ("geometry.py", "codec.py"):
        return
    sums = (
        node.left
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div)
    )
    halves = [
        s.lineno
        for s in sums
        if isinstance(s, ast.BinOp) and isinstance(s.op, ast.Add) and ast.unparse(s.right) == "0.5"
    ]
    assert not halves, f"half pixels in line {halves}"


def test_the_converter_stays_out_of_this_process() -> None:
    """onnx2tf lifts the recursion limit, after which a deeply nested json ends the process.

    Only a child may load it.
    """
    assert "onnx2tf" not in sys.modules and sys.getrecursionlimit() < 100_000
