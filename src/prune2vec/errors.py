"""Every error prune2vec raises on purpose.

The message is one line: what came, what was expected, what to do. The command line prints it and exits with 1.
"""

from __future__ import annotations

import difflib
import html
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Prune2vecError(Exception):
    """Root of all errors that prune2vec raises on purpose."""


class ConfigError(Prune2vecError):
    """A setting, key or name that does not exist or does not fit."""


class DataError(Prune2vecError):
    """Texts, or files of texts, that cannot be read."""


class ModelError(Prune2vecError):
    """A model that cannot be found, loaded or understood."""


class UnsupportedModel(ModelError):
    """A model that loads but is not a decoder-only LM whose blocks can be cut."""


class ProfileError(Prune2vecError):
    """Measuring failed, or a profile file is broken."""


class PlanError(Prune2vecError):
    """A plan that cannot be made, or does not fit its model."""


class CheckpointError(Prune2vecError):
    """A folder that cannot be written, read back or trusted."""


class TrainingError(Prune2vecError):
    """Training that must stop."""


class EvaluationError(Prune2vecError):
    """A task or a file that cannot be evaluated."""


class EncodingError(Prune2vecError):
    """A corpus that cannot be encoded, or a folder of vectors that does not fit it."""


class MissingExtra(Prune2vecError):
    """An optional dependency is not installed."""


def reason_of(error: BaseException) -> str:
    """Return what a library's error says, in one line: its first line, and those after it while one ends in a colon or comma.

    A bare key or an empty message says nothing by itself, so the error's class stands before it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ends = next((count for count, line in enumerate(lines, 1) if not line.endswith((":", ","))), len(lines))
    said = " ".join(lines[:ends])
    if not said or isinstance(error, LookupError):
        return f"{type(error).__name__}: {said}".removesuffix(": ")
    return said


@contextmanager
def explained(kind: type[Prune2vecError], what: str) -> Iterator[None]:
    """Turn whatever a library raises over a user's files into one line: ``what`` cannot be done, and why.

    Files are checked by use: values of a wrong type, sign or size surface as any kind of error, anywhere in a library.

    Raises:
        Prune2vecError: One of ``kind``, in place of every error that is not our own.
    """
    try:
        yield
    except (Prune2vecError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers panics over some files, and a panic is no Exception.
        raise kind(f"{what}: {reason_of(error)}") from error


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:200], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


RENAMED = {"order": "sampling", "ranking": "importance", "what": "drop", "distil_from": "teacher"}
"""Keys that settings once had, and what they are called now."""
RENAMED_VALUES = {"embeddings": "vectors"}
"""Values that settings once had, and what they are called now."""


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return what is wrong with a key that is none of ``known``, and what to write instead of it if that can be guessed."""
    known, name = tuple(known), key.rpartition(".")[2]
    if RENAMED.get(name) in known:
        return f"unknown key {key!r}; it is called {RENAMED[name]!r} now"
    return f"unknown key {key!r}{did_you_mean(name, known)}"


def closest_value(value: object, known: Iterable[str]) -> str:
    """Return what to write instead of a value that is none of ``known``, if that can be guessed, else what is known."""
    known, new = tuple(known), RENAMED_VALUES.get(str(value))
    return f"; it is called {new!r} now" if new in known else did_you_mean(value, known)


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

    A text of more than ``width`` characters ends in an ellipsis.
    """
    flat = " ".join(_IN_ONE_LINE.sub(lambda match: " " if match[0].isspace() else _code(match), str(text)).split())
    return flat if width is None or len(flat) <= width else f"{flat[: width - 1].rstrip()}…"


def markdown(text: object) -> str:
    """Return ``shown`` for the middle of a line of Markdown, where it reads as it is: no HTML, link, code or table of its."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(shown(text), quote=False))


def nan_remedy(dtype: object) -> str:
    """Return what to do about NaN in what was computed in a dtype."""
    exact = str(dtype).removeprefix("torch.") == "float32"
    return "the weights are damaged, fetch or train them again" if exact else "use --dtype float32, or check the weights"


def shown_json(value: Any) -> str:
    """Return JSON for a terminal: it holds exactly ``value``, with control characters in JSON's own escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _IN_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


# Import name, the extra that brings it, and what needs it.
_EXTRAS = {
    "bitsandbytes": ("qlora", "training on a base in 4 or 8 bits"),
    "gguf": ("gguf", "reading or writing GGUF files"),
    "mteb": ("eval", "evaluating on MTEB tasks"),
    "onnx": ("onnx", "exporting to ONNX"),
    "onnxruntime": ("onnx", "exporting to ONNX"),
    "onnxscript": ("onnx", "exporting to ONNX"),
    "ray": ("ray", "working on Ray"),
}


def import_extra(name: str) -> Any:
    """Return an optional package; a ``MissingExtra`` that names its extra if it is not installed or does not load."""
    extra, purpose = _EXTRAS[name]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        state = "" if absent else f", which does not load ({reason_of(error)})"
        raise MissingExtra(
            f"{purpose} needs the package {name}{state}; install it with: pip install 'prune2vec[{extra}]'"
        ) from error
