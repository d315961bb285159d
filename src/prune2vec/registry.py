"""Names for interchangeable parts: scorers, planners, poolings, importances, export targets.

A part registers itself beside its code (``@planners.register("percent")``); nobody keeps a central list. The folder of
a registry is imported on first use, and so are third-party entry points of the group ``prune2vec``.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from prune2vec.errors import ConfigError, did_you_mean, reason_of

T = TypeVar("T")
_LOADING = threading.RLock()
F = TypeVar("F", bound=Callable[..., object])


class Registry(Generic[T]):
    """A catalogue of named parts of one kind.

    Args:
        kind: What the parts are, in the singular, for messages: ``"planner"``.
        package: The package whose modules register parts when imported, or None when they sit beside the registry.
    """

    def __init__(self, kind: str, *, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that files a part under ``name``; a name can be taken once."""

        def add(part: F) -> F:
            if name in self._parts:
                raise ConfigError(f"two {self.kind}s are called {name!r}; rename one of them")
            self._parts[name] = part  # type: ignore[assignment]
            return part

        return add

    def get(self, name: str) -> T:
        """Return the part called ``name``; where there is none, a ``ConfigError`` gives the closest name."""
        self._load()
        if name not in self._parts:
            raise ConfigError(f"no {self.kind} is called {name!r}{did_you_mean(name, self._parts)}")
        return self._parts[name]

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        self._load()
        return tuple(sorted(self._parts))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        """Import the package's modules and the plug-ins, once."""
        # Another thread waits until all parts are there; the modules of the parts may look at the registry themselves.
        with _LOADING:
            if self._loaded:
                return
            self._loaded, before = True, dict(self._parts)
            try:
                if self._package is not None:
                    package = importlib.import_module(self._package)
                    for module in pkgutil.iter_modules(package.__path__):
                        importlib.import_module(f"{self._package}.{module.name}")
                for entry in entry_points(group="prune2vec"):
                    try:
                        entry.load()
                    except Exception as error:  # It is someone else's code, and may raise anything.
                        raise ConfigError(
                            f"plug-in {entry.name!r} ({entry.value}) cannot be loaded: {reason_of(error)}; update or uninstall it"
                        ) from error
            except BaseException:
                # The next call tries again, and finds no half of what failed.
                self._loaded, self._parts = False, before
                raise
