"""Records that one verb writes as JSON and another one reads: frozen dataclasses, which pydantic validates and dumps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

from prune2vec.errors import Prune2vecError
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.settings import AS_WRITTEN, adapter, read_as


class Record:
    """Base of the frozen dataclasses that have a file of their own.

    Class attributes:
        FORMAT: The file's format and version, such as ``prune2vec.plan/3``.
        KIND: What it is called.
        VERB: The verb that makes it, where that is not called so too.
        ERROR: What a broken file raises.
        COMPUTED: Properties that are written for readers; a file that says otherwise is broken.
    """

    FORMAT: ClassVar[str]
    KIND: ClassVar[str]
    VERB: ClassVar[str] = ""
    ERROR: ClassVar[type[Prune2vecError]]
    COMPUTED: ClassVar[tuple[str, ...]] = ()
    __pydantic_config__ = AS_WRITTEN

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        kind: Any = type(self)
        computed = {name: getattr(self, name) for name in self.COMPUTED}
        return {"format": self.FORMAT, **computed, **adapter(kind).dump_python(self, mode="json")}

    @property
    def digest(self) -> str:
        """SHA-256 of the record."""
        return digest_json(self.to_json())

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that ``save`` wrote.

        Raises:
            DataError: It is missing or not JSON.
            Prune2vecError: It is JSON but no such record of this version, or its values do not fit each other; ``ERROR`` is
                raised.
        """
        value, verb = read_json(path), cls.VERB or cls.KIND
        if not isinstance(value, dict) or value.get("format") != cls.FORMAT:
            raise cls.ERROR(f"{path}: not a {cls.KIND} (expected format {cls.FORMAT!r}); make one with prune2vec {verb}")
        entries = {key: item for key, item in value.items() if key not in ("format", *cls.COMPUTED)}
        try:
            # Defaults are for callers: a file has every entry.
            absent = [field.name for field in dataclasses.fields(cls) if field.name not in entries]  # type: ignore[arg-type]
            if absent:
                raise ValueError(f"{absent[0]} is missing")
            found = read_as(cls, entries)
            for name in cls.COMPUTED:
                if value.get(name, getattr(found, name)) != getattr(found, name):
                    raise ValueError(f"{name} is {value[name]!r}, but the other entries make it {getattr(found, name)!r}")
            return found
        except ValueError as error:
            raise cls.ERROR(f"{path}: broken {cls.KIND} ({error}); make it again with prune2vec {verb}") from error
        except Prune2vecError as error:
            raise cls.ERROR(f"{path}: {error}") from error
