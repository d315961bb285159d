"""Pairs (heading, section) from a folder of Markdown, reStructuredText or plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prune2vec.errors import DataError
from prune2vec.progress import progress
from prune2vec.texts.mining.headings import (
    Heading,
    Section,
    markdown_headings,
    plain_headings,
    rst_headings,
    split_sections,
)
from prune2vec.texts.mining.pairs import MinedPairs, PairCollector, readable, visiting_order

_FINDERS: Mapping[str, Callable[[Sequence[str]], list[Heading]]] = {
    ".md": markdown_headings,
    ".markdown": markdown_headings,
    ".mdx": markdown_headings,
    ".rst": rst_headings,
    ".txt": plain_headings,
}
_SKIPPED_FOLDERS = frozenset({"node_modules", "site-packages", "__pycache__", "venv"})
_MIN_ANCHOR_WORDS = 2
_TELLING_WORDS = 3


def mine_folder(folder: Path, *, max_pairs: int | None = None, seed: int = 42) -> MinedPairs:
    """Find (heading, section) pairs in the documents below a folder.

    The group of a pair is its file. A heading of one or two words says little, so the heading around it (or the file's name)
    is put before it: ``Training: Installation``. Code blocks are taken out; hidden folders are not visited.

    Args:
        folder: Holds .md, .markdown, .mdx, .rst or .txt files at any depth.
        max_pairs: Stop after so many, taking files in an order shuffled by the seed.
        seed: Seed of that order.

    Raises:
        DataError: The folder does not exist, or no pair was found.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with {', '.join(_FINDERS)} files")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in _FINDERS and _is_visible(path.relative_to(folder))]
    files = readable(files)
    collector = PairCollector(folder.absolute().name, min_anchor_words=_MIN_ANCHOR_WORDS, limit=max_pairs)
    read = unreadable = 0
    with progress("reading documents", len(files)) as advance:
        for path in visiting_order(files, limit=max_pairs, seed=seed):
            if collector.full:
                break
            read += 1
            unreadable += not _collect(path, folder, collector)
            advance(1)
    names, triplets = collector.sorted()
    if not triplets:
        raise DataError(f"{folder}: no sections of a heading and text in {read} files; expected {', '.join(_FINDERS)} files")
    return MinedPairs(
        source=str(folder),
        triplets=triplets,
        names=names,
        files=read,
        unreadable=unreadable,
        rejected=dict(sorted(collector.rejected.items())),
    )


def _collect(path: Path, folder: Path, collector: PairCollector) -> bool:
    """Add the pairs of one file; False when it is not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    group = path.relative_to(folder).as_posix()
    for section in split_sections(text, _FINDERS[path.suffix.lower()]):
        collector.add(_query(section, path), section.body, group=group, name=f"{group}#{section.title}")
    return True


def _query(section: Section, path: Path) -> str:
    if len(section.title.split()) >= _TELLING_WORDS:
        return section.title
    around = section.parent or path.stem.replace("_", " ").replace("-", " ")
    return f"{around}: {section.title}" if around.lower() != section.title.lower() else section.title


def _is_visible(relative: Path) -> bool:
    return _SKIPPED_FOLDERS.isdisjoint(relative.parts) and not any(part.startswith(".") for part in relative.parts)
