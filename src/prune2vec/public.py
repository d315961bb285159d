"""What all functions for users share: paths as str or Path, names of arguments, and one call at a time."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prune2vec.errors import ConfigError, did_you_mean
from prune2vec.paths import as_path

P = ParamSpec("P")
R = TypeVar("R")

# torch's default number format and device, and the ways in which transformers and accelerate build a model, belong to the
# process: two calls at once would build each other's models. A call may call another one.
CALLS = threading.RLock()


def public(name: str, *paths: str, settings: Any = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for a function that users call.

    Calls from several threads run one after the other. An argument that is no path for any file system, or a name that is
    no argument, is a ``ConfigError`` before anything starts.

    Args:
        name: The function as users know it.
        paths: Arguments that are a path, a name that may be one, or a list of these; the function gets each as a str.
        settings: The settings class whose fields are arguments too.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = {part.name for part in signature.parameters.values() if part.kind is not part.VAR_KEYWORD}
        fields = set(settings.model_fields) if settings is not None else set()
        renamed = set(settings.renamed) if settings is not None else set()
        closed = settings is not None or len(own) == len(signature.parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for key in kwargs:
                # What an old name is called now, the settings say.
                if closed and key not in own | fields | renamed:
                    raise ConfigError(f"{name}: unknown key {key!r}{did_you_mean(key, own | fields)}")
            bound = signature.bind(*args, **kwargs)
            for key in paths:
                if bound.arguments.get(key) is not None:
                    bound.arguments[key] = _words(bound.arguments[key], to_write=key == "output")
            with CALLS:
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _words(value: Any, *, to_write: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_word(one, to_write=to_write) for one in value]
    return _word(value, to_write=to_write)


def _word(value: Any, *, to_write: bool) -> Any:
    if not isinstance(value, str | os.PathLike):
        return value
    path = as_path(value, to_write=to_write)
    word = os.fspath(value)
    return str(path) if str(word).startswith("~") else word
