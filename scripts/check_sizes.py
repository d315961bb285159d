"""Check the size budget of the code: short functions, short files, everything typed (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE, MAX_FUNCTION = 400, 60
SOURCE = Path(__file__).parent.parent / "src" / "prune2vec"


@dataclass(frozen=True)
class Function:
    """One function: where it is, how many lines it has without its docstring, and whether it is typed."""

    where: str
    lines: int
    typed: bool


def functions(path: Path) -> Iterator[Function]:
    """Yield every function of a file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            lines -= (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc is not None else 0
            yield Function(f"{path}:{node.lineno}: {node.name}", lines, _is_typed(node))


def _is_typed(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    return node.returns is not None and all(argument.annotation is not None for argument in named)


def faults(paths: list[Path]) -> list[str]:
    """Return one line for every breach of the budget."""
    found = [f"{path}: {lines} lines, more than {MAX_FILE}" for path in paths if (lines := _lines(path)) > MAX_FILE]
    every = [function for path in paths for function in functions(path)]
    found += [f"{one.where}: {one.lines} lines, more than {MAX_FUNCTION}" for one in every if one.lines > MAX_FUNCTION]
    found += [f"{one.where}: an argument or the result has no type" for one in every if not one.typed]
    return found


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> int:
    """Print the breaches and return the exit code."""
    found = faults(sorted(SOURCE.rglob("*.py")))
    print("\n".join(found) or "sizes: all within the budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
