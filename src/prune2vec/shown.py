"""Texts and names of others, made safe to show: on a terminal, in a line, in Markdown, in printed JSON.

What a text holds is data. Escape sequences in it must not move a cursor, overrides of the writing direction must not hide
what is there, and marks of Markdown or HTML must not become part of our page. Files of JSON hold texts as they are.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

# C0 and C1 controls (ESC, BEL, CSI, DEL), line and paragraph separators, halves of surrogate pairs, and the marks that change
# the direction of writing. Joiners stay: scripts and emoji need them.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
_IN_LINES = re.compile(f"[{_CONTROLS}]")
_IN_ONE_LINE = re.compile(f"[\t\n{_CONTROLS}]")
_MARKDOWN = re.compile(r"[\\`*\[\]|]")


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def shown_lines(text: str) -> str:
    """Return a text of several lines with every control character but tabs and line breaks as its code, such as ``\\x1b``."""
    return _IN_LINES.sub(_code, text)


def shown(text: object, width: int | None = None) -> str:
    """Return a text or name on one line: blanks of any kind as one blank, control characters as their code.

    Args:
        text: What is to be shown; anything else than a text by its ``str``.
        width: Most characters; a longer text ends in an ellipsis.
    """
    flat = " ".join(_IN_ONE_LINE.sub(lambda match: " " if match[0].isspace() else _code(match), str(text)).split())
    return flat if width is None or len(flat) <= width else f"{flat[: width - 1].rstrip()}…"


def markdown(text: object, width: int | None = None) -> str:
    """Return a text or name for the middle of a line of Markdown, where it reads as it is: no HTML, link, code or table of its.

    Args:
        text: As ``shown``.
        width: Most characters of what a reader sees.
    """
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(shown(text, width), quote=False))


def shown_json(value: Any) -> str:
    """Return JSON for a terminal: it holds exactly ``value``, with control characters in JSON's own escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _IN_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
