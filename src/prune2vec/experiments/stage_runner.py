"""Doing the stages of a run: each at most once, skipped when its record says that it is done.

A stage writes its output under a temporary name and renames it into place; only then its record is written, with the key
that the output was made from and a listing of the output's files. A stage is done when its record has the wanted key and
its output still equals the listing. Killed in between, it is done again and gives the same output.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from prune2vec.errors import ConfigError, DataError
from prune2vec.files import digest_json, fingerprint, read_json, write_json
from prune2vec.machine import installed_version, release_memory
from prune2vec.outputs import OwnFolder, files_of_others, remove_folder
from prune2vec.progress import say
from prune2vec.settings import AS_WRITTEN, read_as

# The names of what a run writes into its folder, beside the folders of its variants.
RECIPE, PROFILE, ANSWERS, DATA, STAMPS = "recipe.yaml", "profile.json", "answers.json", "data", "stamps"
MANIFEST = "manifest.json"
SWEEP, SWEEP_TABLES = "sweep.json", ("sweep.parquet", "sweep.md")
_DRAWN = ("layers", "score", "speed", "tasks", "loss", "time", "memory", "training", "profile", "redundancy")
FIGURES = tuple(f"{name}.svg" for name in _DRAWN)
REPORT = (MANIFEST, *FIGURES, "report.md", "report.html", SWEEP, *SWEEP_TABLES)
PLAN, SLIM_PLAN, RESULTS = "plan.json", "slim-plan.json", "results.json"
CHECKPOINT, ENCODER = "checkpoint", "encoder"
TEACHER_VECTORS = "teacher-vectors"
_TAKEN = {RECIPE, PROFILE, ANSWERS, DATA, STAMPS, TEACHER_VECTORS, *REPORT, PLAN, SLIM_PLAN, RESULTS}
# Windows opens a device under these names, whatever comes after a dot, and drops a dot at the end.
_UNUSABLE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)
_LONGEST = 100
_FORMAT = "prune2vec.stamp/1"

Outcome = Literal["done", "skipped", "reused", "would run"]
Listing = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a finished stage leaves behind.

    Attributes:
        stage: Its name: ``"large.train"``.
        key: Digest of ``inputs``.
        inputs: Everything that the output depends on.
        output: File name to ``[bytes, digest]``.
        seconds: How long it took; if it was interrupted and resumed, its last part.
        finished: When, in UTC.
    """

    __pydantic_config__ = AS_WRITTEN

    stage: str
    key: str
    inputs: Mapping[str, Any]
    output: Listing
    seconds: float
    finished: str

    @classmethod
    def load(cls, path: Path) -> StageRecord | None:
        """Return the record at ``path``; None when there is none or it cannot be understood (then the stage is done again)."""
        try:
            value = read_json(path)
            return read_as(cls, value) if value.pop("format") == _FORMAT else None
        except (DataError, AttributeError, KeyError, TypeError, ValueError):
            return None

    @property
    def output_digest(self) -> str:
        """Digest of the output's files, for the keys of the stages that read them."""
        return digest_json(self.output)

    def is_current(self, output: Path) -> bool:
        """Return whether ``output`` still is what the stage left."""
        return bool(self.output) and listing(output) == self.output

    def why_again(self, inputs: Mapping[str, Any], output: Path) -> str:
        """Say why a stage with ``inputs`` is not skipped."""
        changed = sorted(key for key in {*self.inputs, *inputs} if self.inputs.get(key) != inputs.get(key))
        if changed:
            return f"changed: {', '.join(changed)}"
        return "its output is not what it left" if listing(output) else "its output is gone"


def listing(path: Path) -> Listing:
    """Return size and digest of a file, or of every visible file below a folder; empty when nothing is there.

    What prune2vec has written into folders inside is left out: a run may lie in the folder that it mines.
    """
    if path.is_file():
        return {path.name: fingerprint(path)}
    names = ((file.relative_to(path), file) for file in files_of_others(path))
    return {name.as_posix(): fingerprint(file) for name, file in names if not any(part.startswith(".") for part in name.parts)}


def shards_in(folder: Path) -> list[Path]:
    """Return the folders of the shards of a run, in order; none where the folder is a run itself, or something else."""
    found = [] if (folder / STAMPS).is_dir() else sorted(folder.glob("shard-*"))
    return [path for path in found if path.is_dir() and re.fullmatch(r"shard-\d{5}-of-\d{5}", path.name)]


def count_of_shards(folder: Path) -> int | None:
    """Return into how many shards a run is divided; None where it is not, and a ``ConfigError`` where shards of two runs are mixed."""
    counts = sorted({int(path.name[-5:]) for path in shards_in(folder)})
    if len(counts) > 1:
        raise ConfigError(
            f"{folder} holds shards of {counts[0]} and of {counts[1]}; say how many there are to be, such as --ray 4, or move the "
            "others away"
        )
    return counts[0] if counts else None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happened to one stage.

    Attributes:
        name: Name of the stage: ``"profile"``, ``"large.train"``.
        outcome: done, skipped (its output was there and its inputs unchanged), reused (another variant has the same
            plan), or, in a dry run, would run.
        seconds: How long its output took to make, in this run or an earlier one; None if it was not made yet.
        detail: More to say, for people.
    """

    name: str
    outcome: Outcome
    seconds: float | None = None
    detail: str = ""

    def render(self) -> str:
        """Return one line."""
        took = f"  ({self.seconds:,.1f} s)" if self.seconds is not None and self.outcome == "done" else ""
        return f"{self.outcome:<9}  {self.name}{took}{'  ' + self.detail if self.detail else ''}"


class StageRunner:
    """The stages of a run in one folder; what happened so far is in ``steps``, the record of each that is done in ``records``.

    ``own`` is the folder held to be written, or None for a dry run: find out what would be done, and do nothing. ``before`` is
    called before the first stage that is not skipped.
    """

    def __init__(self, folder: Path, own: OwnFolder | None, *, before: Callable[[], object] | None = None) -> None:
        self.folder = folder
        self.own = own
        self._before = before
        self.steps: list[Step] = []
        self.records: dict[str, StageRecord] = {}
        self._version = installed_version("prune2vec") or "unknown"

    def do(self, name: str, action: Callable[[Path], object], *, output: str, inputs: Mapping[str, Any]) -> str | None:
        """Make ``output`` by ``action``, unless it is there and was made from the same inputs; return its digest.

        In a dry run the digest is None where the stage would run.

        Args:
            name: Name of the stage.
            action: Writes the path that it is given, whole or not at all.
            output: Where, relative to the folder of the run.
            inputs: JSON-ready settings and digests that the output depends on; a None among them stands for the output of
                a stage that a dry run has not done.

        Raises:
            CheckpointError: The output is there and is not ours, or was changed since.
        """
        inputs = {"stage": name, "prune2vec": self._version, **inputs}
        path, place = self.folder / output, self._record_path(name)
        record, key = StageRecord.load(place), digest_json(inputs)
        known = all(value is not None for value in inputs.values())
        same = record is not None and record.key == key
        if record is not None and known and same and record.is_current(path):
            return self._note(Step(name=name, outcome="skipped", seconds=record.seconds, detail="unchanged"), record)
        if self._before is not None:
            self._before()
            self._before = None
        if self.own is None:
            why = record.why_again(inputs, path) if record is not None else "not done yet"
            self.steps.append(Step(name=name, outcome="would run", detail=why if known else ""))
            return None
        if same:
            # Some of the output is gone. A stage may take what is left, of the right settings, for its own.
            remove_folder(path) if path.is_dir() else self.own.remove(output)
        with self.own.writing(output):
            say(f"{name} ...")
            begin = time.monotonic()
            action(path)
            # The next stage loads a model of its own.
            release_memory()
            seconds = time.monotonic() - begin
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            made = listing(path)
            record = StageRecord(stage=name, key=key, inputs=inputs, output=made, seconds=round(seconds, 3), finished=finished)
            write_json(place, {"format": _FORMAT, **asdict(record)})
        return self._note(Step(name=name, outcome="done", seconds=seconds), record)

    def _note(self, step: Step, record: StageRecord) -> str:
        self.steps.append(step)
        self.records[step.name] = record
        if self.own is not None:
            say(step.render())
        return record.output_digest

    def reuse(self, variant: str, other: str, *, stages: Sequence[str]) -> None:
        """Note that ``variant`` keeps the same as ``other``, and forget its ``stages`` from an earlier, different plan."""
        step = Step(name=variant, outcome="reused", detail=f"keeps the same as {other}; nothing is done twice")
        self.steps.append(step)
        say(step.render())
        for stage in stages if self.own is not None else ():
            self._record_path(f"{variant}.{stage}").unlink(missing_ok=True)

    def _record_path(self, name: str) -> Path:
        return self.folder / STAMPS / f"{name}.json"


def wrong_folder_name(name: str) -> str | None:
    """Return why a variant's folder cannot have this name beside the run's own files; None where it can."""
    if name.lower() in _TAKEN:
        return "the run keeps its own files under that name; choose another"
    if _UNUSABLE.fullmatch(name):
        return "that is no name for a folder on every system; choose another"
    if len(name) > _LONGEST:
        return f"the name has {len(name)} characters; choose one of at most {_LONGEST}"
    return None


class SourceDigests(dict[str, str | None]):
    """Digests of the files, folders and names that a run reads, each taken once.

    What exists as a path is digested by its contents; anything else is a name on the hub and stands for itself. The digest of
    what the run itself makes is set, as None when a dry run has not made it.
    """

    def __missing__(self, source: str) -> str | None:
        """Take the digest of a source on first use."""
        path = Path(source)
        self[source] = digest_json(listing(path)) if path.exists() else f"hub:{source}"
        return self[source]

    def together(self, sources: Sequence[str]) -> str | None:
        """Return one digest of several sources; None if one of them is not made yet."""
        each = [self[source] for source in sources]
        return None if None in each else digest_json(each)


def installed_packages() -> str:
    """Return a digest of the names and versions of all installed Python packages."""
    return digest_json(sorted({f"{one.name}=={one.version}" for one in distributions()}))
