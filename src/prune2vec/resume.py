"""Whether unfinished work is the same work, and the hidden folder beside the output in which it waits to be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError, TrainingError
from prune2vec.files import digest_json, read_json, sync_tree, write_json, write_text
from prune2vec.progress import say

IDENTITY_FILE = "run.json"
_COMPLETE = "complete.json"
_NOTES = "notes.json"
# What an identity holds as a digest, and how people call it.
_DIGESTS = {
    "encoder": "encoder",
    "data": "training texts",
    "base": "checkpoint to train",
    "teacher": "teacher",
    "prompts": "instructions",
}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name what differs between two identities: ``learning_rate 0.0002, now 0.0001``; empty when they are equal."""
    named: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            named += filter(None, [differences(old, new)])
        elif digest_json(old) != digest_json(new):
            named.append(f"the {_DIGESTS[key]} changed" if key in _DIGESTS else f"{key} {old}, now {new}")
    return "; ".join(named)


@dataclass(frozen=True)
class WorkFolder:
    """Checkpoints and curves of a run that has not ended: ``.NAME.training`` beside the output NAME."""

    folder: Path

    @classmethod
    def beside(cls, output: Path) -> WorkFolder:
        """Return the work folder of ``output``; nothing is made yet."""
        output = output.absolute()
        return cls(output.parent / f".{output.name}.training")

    @property
    def curve(self) -> Path:
        """The training curve."""
        return self.folder / "train.jsonl"

    @property
    def dev(self) -> Path:
        """Scores on held-out rows."""
        return self.folder / "dev.jsonl"

    def open(self, identity: Mapping[str, Any], *, restart: bool) -> Path | None:
        """Make the folder ready, and return the newest complete checkpoint to resume from, if there is one.

        Half-written and damaged checkpoints are removed and the curves are cut back to the checkpoint. ``restart`` discards a run with
        another identity, never one with the same: a restarted run is resumed after a kill like any other.

        Raises:
            TrainingError: The folder holds a run with another identity, and ``restart`` is off; or something else.
        """
        record = self.folder / IDENTITY_FILE
        if not record.exists() and any(self.folder.glob("[!.]*")):
            raise TrainingError(f"{self.folder} is needed for the run and holds something else; move it away")
        changed = differences(read_json(record), identity) if record.exists() else ""
        if changed and not restart:
            raise TrainingError(f"an unfinished run at this output differs ({changed}); go back to that or set restart")
        if changed or not record.exists():
            self.remove()
            write_json(record, identity)
        newest = self._newest()
        for file in (self.curve, self.dev):
            cut_back(file, step_of(newest) if newest else 0)
        return newest

    def note(self, facts: Mapping[str, Any]) -> None:
        """Keep facts about the run for its record."""
        write_json(self.folder / _NOTES, facts)

    def notes(self) -> dict[str, Any]:
        """Return what ``note`` kept."""
        return dict(read_json(self.folder / _NOTES))

    def checkpoint(self, step: int) -> Path:
        """Return the checkpoint folder of a step."""
        return self.folder / f"checkpoint-{step}"

    def complete(self, step: int) -> None:
        """Mark the checkpoint of ``step`` as whole, with the size of each file: the last thing written into it."""
        sync_tree(self.checkpoint(step))
        write_json(self.checkpoint(step) / _COMPLETE, {"step": step, "sizes": _sizes(self.checkpoint(step))})

    @contextmanager
    def left_on_failure(self) -> Iterator[None]:
        """If the block fails, delete the folder, or say where it is when it holds a checkpoint to resume from."""
        try:
            yield
        except BaseException as error:
            # On a full or read-only disk tidying up fails as well; what the caller must see is the error that came first.
            with suppress(OSError):
                newest = self._newest()
                if newest is None:
                    self.remove()
                else:
                    error.add_note(f"{self.folder} is kept, from which the same command goes on after step {step_of(newest)}")
            raise

    def remove(self) -> None:
        """Delete the folder; what says that it is ours goes last."""
        for path in self.folder.glob("*"):
            if path.name != IDENTITY_FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if(self, identity: Mapping[str, Any]) -> None:
        """Delete the folder if it holds this run; another one can still be resumed."""
        record = self.folder / IDENTITY_FILE
        if record.exists() and not differences(read_json(record), identity):
            self.remove()

    def _newest(self) -> Path | None:
        whole = []
        for checkpoint in self.folder.glob("checkpoint-*"):
            if damaged := _damaged(checkpoint):
                say(f"{checkpoint} is damaged and is not resumed from: {damaged}")
            if damaged is None:
                whole.append(checkpoint)
            else:
                shutil.rmtree(checkpoint)
        return max(whole, key=step_of, default=None)


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        file.relative_to(checkpoint).as_posix(): file.stat().st_size for file in sorted(checkpoint.rglob("*")) if file.is_file()
    }


def _damaged(checkpoint: Path) -> str | None:
    """Return what a checkpoint lacks of what was written, "" where it was not written to its end; None for a whole one."""
    try:
        written = read_json(checkpoint / _COMPLETE).get("sizes", {})
    except DataError:
        return ""
    there = _sizes(checkpoint)
    return next(
        (f"{name} has {there.get(name, 0):,} bytes of {size:,}" for name, size in written.items() if there.get(name) != size),
        None,
    )


def step_of(checkpoint: Path) -> int:
    """Return the step a checkpoint folder is of, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def append_line(file: Path, record: Mapping[str, Any]) -> None:
    """Add one record to a JSON-lines file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file up to the first broken line, which only a killed process leaves."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def cut_back(file: Path, step: int) -> None:
    """Drop the records after ``step`` from a JSON-lines file, and a half-written last line."""
    if file.exists():
        kept = [record for record in read_lines(file) if record["step"] <= step]
        write_text(file, "".join(json.dumps(record) + "\n" for record in kept))
