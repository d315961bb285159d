"""What all functions for users share: paths as str or Path, names of arguments, one call at a time."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

from prune2vec.errors import ConfigError, unknown_key
from prune2vec.paths import as_path

P = ParamSpec("P")
R = TypeVar("R")

_KINDS: dict[str, tuple[type, str]] = {
    "Path": (os.PathLike, "a path or a name"),
    "str": (str, "a text"),
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
}
"""What annotations call the kinds of arguments that are checked, and how people call them."""
_RECORDS = {"Profile", "PruningPlan"}
"""What functions take in place of its file."""

# torch's default dtype and device, and the ways in which transformers and accelerate build a model, belong to the
# process: two calls at once would build each other's models. A call may call another one.
CALLS = threading.RLock()


@contextmanager
def usual_torch() -> Iterator[None]:
    """Compute as torch does by default while the context is open, whatever the caller has set for the process."""
    torch = sys.modules.get("torch")
    if torch is None:  # Then nobody has set anything.
        yield
        return
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda", "mps")):
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield


def public(name: str, *paths: str, settings: Any = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for a function that users call.

    Calls from several threads run one after the other. An argument that is no path for any file system, or of a kind that the
    function does not take, or a name that is no argument, is a ``ConfigError`` before anything starts.

    Args:
        name: The function as users know it.
        paths: Arguments that are a path, a name that may be one, or a list of these; the function gets each as a str.
        settings: The settings class whose fields are arguments too.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = {part.name for part in signature.parameters.values() if part.kind is not part.VAR_KEYWORD}
        fields = set(settings.model_fields) if settings is not None else set()
        closed = settings is not None or len(own) == len(signature.parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for key in kwargs:
                if closed and key not in own | fields:
                    raise ConfigError(f"{name}: {unknown_key(key, own | fields)}")
            bound = signature.bind(*args, **kwargs)
            for key, given in bound.arguments.items():
                _check_kind(f"{name}: {key}", given, str(signature.parameters[key].annotation))
            for key in filter(bound.arguments.__contains__, paths):
                given, to_write = bound.arguments[key], key == "output"
                if isinstance(given, Iterator):  # What is read twice is there twice.
                    given = list(given)
                if isinstance(given, list | tuple):
                    bound.arguments[key] = [_word(one, to_write=to_write) for one in given]
                elif given is not None:
                    bound.arguments[key] = _word(given, to_write=to_write)
            with CALLS, usual_torch():
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _check_kind(what: str, given: Any, annotation: str) -> None:
    """Refuse an argument of a kind that its annotation does not name, as far as that names kinds that are known here."""
    taken = set(re.split(r"[|\[\] ]+", annotation)) - {""}
    kinds = taken - {"None", "Sequence"}
    if kinds - _KINDS.keys() - _RECORDS or (given is None and "None" in taken):
        return
    several = "Sequence" in taken and not isinstance(given, str | bytes | os.PathLike) and isinstance(given, Iterable)
    known = tuple(kind for name, (kind, _) in _KINDS.items() if name in kinds)
    # Of other collections the elements are looked at where they are used.
    for one in (given if isinstance(given, list | tuple) else ()) if several else [given]:
        if isinstance(one, bool) or not (isinstance(one, known) or type(one).__name__ in kinds & _RECORDS):
            told = [word for name, (_, word) in _KINDS.items() if name in kinds - ({"str"} if "Path" in kinds else set())]
            names = [*(f"a {name}" for name in sorted(kinds & _RECORDS)), *told]
            raise ConfigError(f"{what}: expected {' or '.join(names)}, got {'None' if one is None else type(one).__name__}")


def _word(value: Any, *, to_write: bool) -> Any:
    """Return a path as a str, the home folder in place of ``~``; anything else as it is."""
    if not isinstance(value, str | os.PathLike):
        return value
    path = as_path(value, to_write=to_write)
    word = os.fspath(value)
    return str(path) if str(word).startswith("~") else word
