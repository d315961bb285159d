"""Sections of Markdown, reStructuredText and plain text: a heading and what stands below it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prune2vec.data.folders import visible_files
from prune2vec.data.pairs import MIN_WORDS, MinedPairs
from prune2vec.errors import DataError

_FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_ADORNMENT = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}[ \t]*")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ROLE = re.compile(r":[A-Za-z:+-]+:`~?([^`<]+?)\s*(?:<[^>]*>)?`")
_TAG = re.compile(r"</?[A-Za-z][^>\n]*>|<!--.*?-->", re.DOTALL)
_MAX_PLAIN_HEADING_WORDS = 12


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: its level (1 is the highest), its title, its first line and the first line below it (from 0)."""

    level: int
    title: str
    start: int
    body: int


@dataclass(frozen=True, slots=True)
class Section:
    """A titled piece of a document; ``parent`` is the title of the section around it, or empty."""

    title: str
    parent: str
    body: str


def markdown_headings(lines: Sequence[str]) -> list[Heading]:
    """Return ATX (``# Title``) and setext (underlined) headings; code fences hold none."""
    found: list[Heading] = []
    for number, line in _outside_fences(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if atx := _ATX.fullmatch(line):
            found.append(Heading(len(atx[1]), atx[2], number, number + 1))
        # A table's rule or a list item above dashes is no heading.
        elif (
            (setext := _SETEXT.fullmatch(below))
            and _starts_paragraph(lines, number)
            and not line.lstrip().startswith(("|", "-", "*", ">", "#"))
        ):
            found.append(Heading(1 if setext[1].startswith("=") else 2, line.strip(), number, number + 2))
    return found


def _outside_fences(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not in a code fence, with their numbers."""
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            yield number, line


def rst_headings(lines: Sequence[str]) -> list[Heading]:
    """Return underlined (and perhaps overlined) titles; levels follow the order in which the adornments first appear."""
    found: list[Heading] = []
    levels: dict[str, int] = {}
    for number in range(len(lines) - 1):
        title, below = lines[number].strip(), _ADORNMENT.fullmatch(lines[number + 1])
        if not below or not title or _ADORNMENT.fullmatch(lines[number]) or len(below[0].rstrip()) < len(title):
            continue
        above = _ADORNMENT.fullmatch(lines[number - 1]) if number else None
        if not above and not _starts_paragraph(lines, number):
            continue
        style = below[1] * (2 if above else 1)
        found.append(Heading(levels.setdefault(style, len(levels) + 1), title, number - bool(above), number + 2))
    return found


def plain_headings(lines: Sequence[str]) -> list[Heading]:
    """Return underlined titles, else short lines that stand alone between blank lines and do not end a sentence."""
    underlined = rst_headings(lines)
    if underlined:
        return underlined
    found: list[Heading] = []
    for number, line in enumerate(lines):
        title = line.strip()
        alone = _starts_paragraph(lines, number) and (number + 1 < len(lines) and not lines[number + 1].strip())
        if alone and len(title.split()) <= _MAX_PLAIN_HEADING_WORDS and title[0].isalnum() and title[-1] not in ".,;:!":
            found.append(Heading(1, title, number, number + 1))
    return found


def _starts_paragraph(lines: Sequence[str], number: int) -> bool:
    return bool(lines[number].strip()) and (number == 0 or not lines[number - 1].strip())


def split_sections(text: str, find: Callable[[Sequence[str]], list[Heading]]) -> list[Section]:
    """Return the sections of a document, in order; text above the first heading belongs to none."""
    lines = _FRONT_MATTER.sub("", text.replace("\r\n", "\n"), count=1).split("\n")
    headings = find(lines)
    sections: list[Section] = []
    around: list[Heading] = []
    for heading, after in zip(headings, [*headings[1:], None], strict=False):
        around = [outer for outer in around if outer.level < heading.level]
        parent = _plain(around[-1].title) if around else ""
        around.append(heading)
        body = _outside_fences(lines[heading.body : after.start if after else len(lines)])
        prose = [line for _, line in body if not line.startswith(".. ") and not _ADORNMENT.fullmatch(line.strip())]
        sections.append(Section(_plain(heading.title), parent, _plain("\n".join(prose))))
    return sections


def _plain(text: str) -> str:
    """Return text without links, roles, tags and back quotes, on one line."""
    text = _TAG.sub(" ", _ROLE.sub(r"\1", _LINK.sub(r"\1", text)))
    return " ".join(text.replace("`", "").replace("**", "").split())


_FINDERS: Mapping[str, Callable[[Sequence[str]], list[Heading]]] = {
    ".md": markdown_headings,
    ".markdown": markdown_headings,
    ".mdx": markdown_headings,
    ".rst": rst_headings,
    ".txt": plain_headings,
}
_MIN_ANCHOR_WORDS = 2
_TELLING_WORDS = 3


def mine_folder(folder: Path, *, max_pairs: int | None = None, seed: int = 42) -> MinedPairs:
    """Find (heading, section) pairs in the .md, .markdown, .mdx, .rst and .txt documents below a folder.

    The group of a pair is its file. A heading of one or two words says little, so the heading around it (or the file's name)
    is put before it: ``Training: Installation``. Code blocks are taken out; hidden folders are not visited.

    Raises:
        DataError: The folder does not exist, or no pair was found.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with {', '.join(_FINDERS)} files")
    files = [path for path in visible_files(folder) if path.suffix.lower() in _FINDERS]
    mined = MinedPairs(source=str(folder), min_anchor_words=_MIN_ANCHOR_WORDS, limit=max_pairs)
    mined.read(files, partial(_pairs_of, folder=folder), seed=seed)
    if not mined:
        why = "".join(f"; {count} sections: {reason}" for reason, count in mined.rejected.items())
        expected = f"expected {', '.join(_FINDERS)} files, with sections of a heading and a text of {MIN_WORDS} words or more"
        raise DataError(f"{folder}: nothing to mine in {mined.files} files{why}; {expected}")
    return mined


def _pairs_of(path: Path, *, folder: Path) -> list[tuple[str, str, str, str]] | None:
    """Return the pairs of one file; None when it is not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    group = path.relative_to(folder).as_posix()
    pairs = []
    for section in split_sections(text, _FINDERS[path.suffix.lower()]):
        query, around = section.title, section.parent or path.stem.replace("_", " ").replace("-", " ")
        if len(query.split()) < _TELLING_WORDS and around.lower() != query.lower():
            query = f"{around}: {query}"
        pairs.append((query, section.body, group, f"{group}#{section.title}"))
    return pairs
