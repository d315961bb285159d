"""Finished parts of an evaluation, kept until the whole is written, so that a killed one goes on where it stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.machine import describe
from prune2vec.progress import say

_LIBRARIES = ("datasets", "pytrec-eval-terrier", "bm25s", "scikit-learn", "numpy")


def environment() -> dict[str, Any]:
    """Return the kind of machine and the versions of everything that a score may depend on."""
    found = describe()
    versions = dict(found["versions"])
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "versions": versions}


class Parts:
    """A hidden folder beside the output that holds finished parts.

    A part is found again only for the same encoder (by digest), data, settings and library versions.

    Args:
        output: The results file to come; None keeps nothing.
        encoder: The encoder.
        settings: The settings.
    """

    def __init__(self, output: Path | None, encoder: LoadedEncoder, settings: EvaluateSettings) -> None:
        self._folder = output.parent / f".{output.name}.parts" if output is not None else None
        how = settings.model_dump(
            mode="json", include={"batch_size", "max_length", "seed", "bm25", "max_queries", "max_documents"}
        )
        made = {"encoder": encoder.digest, "dtype": encoder.dtype, "device": encoder.model.device.type}
        self._base = {**how, **made, "versions": environment()["versions"]}

    def get(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the part stored under ``key``, or compute and store it."""
        if self._folder is None:
            return compute()
        file = self._folder / f"{digest_json({**self._base, **key})}.json"
        if file.is_file():
            try:
                return dict(read_json(file))
            except DataError:
                say(f"{file} cannot be read; doing that part again")
        value = compute()
        write_json(file, value)
        return value

    def remove(self) -> None:
        """Throw all parts away."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Clock:
    """Seconds spent on named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of a block to ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
