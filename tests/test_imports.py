"""One import direction: a module imports only modules of lower levels, or siblings of its own package without cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
# Bottom first; a room is one stage of the pipeline (docs/architecture.md). The files beside the rooms are below all of them,
# but for the parts of models that saved folders name, and what starts the program.
LEVELS = (
    ("errors",),
    ("registry", "files", "progress", "paths", "machine", "ridge"),
    ("public", "outputs", "settings", "resume", "ray_tasks"),
    ("data",),
    ("models",),
    ("modules",),
    ("forward",),
    ("profiling",),
    ("planning",),
    ("pruning",),
    ("encoding",),
    ("training",),
    ("evaluation",),
    ("exporting",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
VERBS = ("profile", "plan", "slim", "prune", "train", "evaluate", "run", "compare", "encode", "export", "search", "mine")

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.glob("prune2vec/**/*.py"))}


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to: ``records`` for ``prune2vec.planning.plan``."""
    return module.split(".")[1] if "." in module else "(root)"


def imported(path: Path) -> Iterator[str]:
    """Yield the prune2vec modules that a file imports, inside functions too; imports for type checkers only are left out."""
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            source = str(node.module)
            names = [f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "prune2vec")


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from runtime_nodes(node)


def type_checking_too(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "prune2vec":
            yield str(node.module)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return {module: set(imported(path)) - {module} for module, path in MODULES.items()}


def test_every_part_has_a_level() -> None:
    parts = {part_of(module) for module in MODULES} - {"(root)"}
    assert parts <= set(LEVEL_OF), "give the new part a level, here and in ARCHITECTURE"


def test_no_top_level_module_is_called_like_a_verb() -> None:
    assert not {part_of(module) for module in MODULES} & set(VERBS)


def test_imports_go_down_only() -> None:
    # Even an import for the type checker alone must not point up: it is a dependency of thought.
    wrong = [
        f"{module} imports {target}"
        for module, path in MODULES.items()
        if module != "prune2vec"
        for target in (*imported(path), *type_checking_too(path))
        if not may_import(part_of(module), part_of(target))
    ]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def may_import(part: str, target: str) -> bool:
    if part == target:
        return True
    return target in LEVEL_OF and LEVEL_OF[target] < LEVEL_OF[part]


def test_rule_sees_what_it_forbids() -> None:
    assert may_import("cli", "errors")
    assert may_import("data", "data")
    assert not may_import("paths", "files"), "siblings of one level are apart"
    assert not may_import("planning", "training")
    assert not may_import("planning", "(root)")


def test_rule_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("def f():\n    from prune2vec.cli import app\n    import prune2vec.files\n", encoding="utf-8")
    assert list(imported(file)) == ["prune2vec.cli.app", "prune2vec.files"]


def test_no_module_needs_one_kind_of_system_to_be_imported() -> None:
    only_posix = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    only_windows = {"msvcrt", "winreg", "winsound", "_winapi"}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & (only_posix | only_windows), module


def test_no_name_is_there_twice() -> None:
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py" and not module.startswith("prune2vec.cli.verbs."):
            files.setdefault(path.name, []).append(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(module)
    assert not [homes for homes in (*files.values(), *classes.values()) if len(homes) > 1]


def test_no_cycles(graph: Graph) -> None:
    assert find_cycle(graph) is None


def test_no_cycles_of_types_either(graph: Graph) -> None:
    whole = {
        module: graph[module] | {name for name in type_checking_too(path) if name in MODULES}
        for module, path in MODULES.items()
    }
    # What the package offers is listed for type checkers at its very top.
    del whole["prune2vec"]
    assert find_cycle(whole) is None


def test_cycles_are_seen() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def find_cycle(graph: Graph) -> list[str] | None:
    """Return one import cycle as a list of modules, or None."""
    finished: set[str] = set()

    def visit(module: str, above: list[str]) -> list[str] | None:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in finished:
            return None
        for target in sorted(graph.get(module, ())):
            cycle = visit(target, [*above, module])
            if cycle:
                return cycle
        finished.add(module)
        return None

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), None)
