"""Every error prune2vec raises on purpose.

    Prune2vecError
    ├── ConfigError         a setting, key, verb or name that does not exist or does not fit
    ├── DataError           texts or files of texts that cannot be read
    ├── ModelError          a model that cannot be found, loaded or understood
    │   └── UnsupportedModel    loaded, but not a decoder-only LM with a block list we can cut
    ├── ProfileError        measuring failed (NaN, too few texts, a profile file that is broken)
    ├── PlanError           a plan that cannot be made or does not fit its model
    ├── CheckpointError     a folder that cannot be written, read back or trusted
    ├── TrainingError       training that must stop (NaN, wrong resume)
    ├── EvaluationError     a task or a file that cannot be evaluated
    ├── EncodingError       a corpus or an encoder that cannot be encoded, or vectors that do not fit it
    └── MissingExtra        an optional dependency is not installed

The message is one line: what came, what was expected, what to do. The command line prints it and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """Return what a library's error says, in one line: its first line (two where the first ends in a colon).

    A bare key or an empty message says nothing by itself, so the error's class stands before it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if not said or isinstance(error, LookupError):
        return f"{type(error).__name__}: {said}".removesuffix(": ")
    return said


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:200], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
