"""Pairs (summary line, body) from the docstrings of installed packages; nothing is imported, only parsed."""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Collection, Iterator
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from prune2vec.data.pairs import MinedPairs
from prune2vec.errors import DataError, did_you_mean
from prune2vec.files import no_collection

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | Definition

# Copies of other packages would leak from one package into another; tests document little but themselves.
_SKIPPED_FOLDERS = frozenset(
    ["tests", "test", "_vendor", "vendor", "_vendored", "vendored", "externals", "extern", "third_party"]
)
_MIN_ANCHOR_WORDS = 3
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")

_DOCTEST = re.compile(r"^[ \t]*>>>.*(?:\n[ \t]*\S.*)*", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_RULE_OR_DIRECTIVE = re.compile(r"^[ \t]*(?:[-=~^*_.]{3,}[ \t]*|\.\. .*)$", re.MULTILINE)
# Titles whose section is nothing without its code, or whose text reads on without them.
_TITLE = re.compile(r"^[ \t]*(?:examples?|references?|see also|notes?|explanation|description)[ \t]*:{0,2}[ \t]*$", re.M | re.I)
_ROLE = re.compile(r":[A-Za-z:+-]+:`~?([^`]+)`")
_SECTION = re.compile(
    r"(?:parameters?|args|arguments|returns?|yields?|raises|attributes|examples?|notes?|see also|references)\s*(?::|---|===|$)"
    r"|:\w|>>>|\.\. |\W*$",
    re.IGNORECASE,
)


def mine_docstrings(
    root: Path | None = None, *, packages: Collection[str] | None = None, max_pairs: int | None = None, seed: int = 42
) -> MinedPairs:
    """Find (summary, body) pairs of modules, classes and functions below a folder of installed packages.

    The group of a pair is its distribution (``scikit-learn`` for ``sklearn``); ``packages`` may go by either name. Test
    folders, vendored copies and files that cannot be parsed are left out. Doctests, code fences, rules and directives are
    taken out of the bodies.

    Raises:
        DataError: The folder does not exist, a package is not in it, or no pair was found.
    """
    root = Path(sysconfig.get_paths()["purelib"]) if root is None else root
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with installed packages (site-packages)")
    owners, versions = _owners(root)
    files = [path for path in root.rglob("*.py") if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1])]
    if packages is not None:
        tops = {_top(path.relative_to(root)) for path in files}
        known = tops | {owners[top] for top in tops if top in owners}
        for package in packages:
            if package not in known:
                raise DataError(f"no package {package!r} in {root}{did_you_mean(package, known)}")
        chosen = {top for top in tops if top in packages or owners.get(top) in packages}
        files = [path for path in files if _top(path.relative_to(root)) in chosen]
    mined = MinedPairs(source="docstrings", min_anchor_words=_MIN_ANCHOR_WORDS, limit=max_pairs)
    # Syntax trees hold no cycles; collecting while they grow costs a third of the time.
    with no_collection():
        mined.read(files, partial(_pairs_of, root=root, owners=owners), seed=seed)
    if not mined:
        raise DataError(
            f"{root}: no docstrings of summary and body in {mined.files} Python files; expected installed packages there"
        )
    groups = sorted({row.group for row in mined.triplets})
    mined.versions = {group: versions[group] for group in groups if group in versions}
    return mined


def _pairs_of(path: Path, *, root: Path, owners: dict[str, str]) -> list[tuple[str, str, str, str]] | None:
    """Return the pairs of one file; None when it is broken, in an unknown encoding, or absurdly nested."""
    relative = path.relative_to(root)
    try:
        source = path.read_bytes()
        # Parsing is nearly all the time that mining takes, and a quarter of the files document nothing.
        if b'"""' not in source and b"'''" not in source:
            return []
        with warnings.catch_warnings():
            # Other people's invalid escapes are none of our user's business.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    pairs = []
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    group = owners.get(_top(relative), _top(relative))
    for name, node in _documented(tree, module):
        docstring = ast.get_docstring(node)
        pair = split_docstring(docstring) if docstring else None
        if pair is not None:
            pairs.append((*pair, group, name))
    return pairs


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """Return (summary, body) without markup, or None when there is no body or the summary is a section heading."""
    summary, _, body = docstring.strip().partition("\n\n")
    if not body.strip() or _SECTION.match(summary):
        return None
    for noise in (_FENCE, _DOCTEST, _RULE_OR_DIRECTIVE, _TITLE):
        body = noise.sub("", body)
    return _plain(summary), _plain(body)


def _plain(text: str) -> str:
    return " ".join(_ROLE.sub(r"\1", text).replace("``", "").split())


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, Documented]]:
    """Yield the module and every class and function in it with its dotted name, in source order."""
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, Documented):
            yield name, node
        # Only these fields can hold definitions; expressions are most of the tree.
        inner: list[ast.AST] = [child for field in _BLOCKS for child in getattr(node, field, ())]
        for child in reversed(inner):
            stack.append((f"{name}.{child.name}" if isinstance(child, Definition) else name, child))


def _top(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


def _owners(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the distribution of each top-level module or folder, and the version of each distribution."""
    owners: dict[str, str] = {}
    versions: dict[str, str] = {}
    shared: set[str] = set()
    for distribution in distributions(path=[str(root)]):
        name = distribution.metadata["Name"]
        versions[name] = distribution.version
        record = distribution.read_text("RECORD") or ""
        for top in {_top(Path(line.partition(",")[0])) for line in record.splitlines() if line}:
            if owners.setdefault(top, name) != name:
                shared.add(top)
    # What several distributions share, such as a namespace package, is a group of its own.
    return {top: name for top, name in owners.items() if top not in shared}, versions
