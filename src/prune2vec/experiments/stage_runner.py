"""Doing the stages of a run: each at most once, skipped when its stamp says that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from prune2vec.experiments.run_folder import STAMPS
from prune2vec.experiments.stage_records import StageRecord, is_done, listing, load_stamp, save_stamp
from prune2vec.files import digest_json
from prune2vec.outputs import OwnFolder, remove_folder
from prune2vec.progress import say

Outcome = Literal["done", "skipped", "reused", "would run"]


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
    """The stages of a run in one folder, with their stamps.

    Args:
        folder: Folder of the run.
        own: The same folder, held to be written; None for a dry run: find out what would be done, and do nothing.
        before: Called before the first stage that is not skipped.
    """

    def __init__(self, folder: Path, own: OwnFolder | None, *, before: Callable[[], object] | None = None) -> None:
        self.folder = folder
        self.own = own
        self._before = before
        self.steps: list[Step] = []
        self.stamps: dict[str, StageRecord] = {}
        self._version = package_version()

    def do(self, name: str, action: Callable[[Path], object], *, output: str, inputs: Mapping[str, Any]) -> str | None:
        """Make ``output`` by ``action``, unless it is there and was made from the same inputs.

        Args:
            name: Name of the stage.
            action: Writes the path that it is given, whole or not at all.
            output: Where, relative to the folder of the run.
            inputs: JSON-ready settings and digests that the output depends on; a None among them stands for the output of
                a stage that a dry run has not done.

        Returns:
            Digest of the output; None in a dry run in which the stage would run.

        Raises:
            CheckpointError: The output is there and is not ours, or was changed since.
        """
        inputs = {"stage": name, "prune2vec": self._version, **inputs}
        path = self.folder / output
        stamp = load_stamp(self._stamp_path(name))
        known = all(value is not None for value in inputs.values())
        if stamp is not None and known and is_done(stamp, key=digest_json(inputs), output=path):
            self._record(Step(name=name, outcome="skipped", seconds=stamp.seconds, detail="unchanged"), stamp)
            return stamp.output_digest
        if self._before is not None:
            self._before()
            self._before = None
        if self.own is None:
            self.steps.append(Step(name=name, outcome="would run", detail=_why(stamp, inputs, path) if known else ""))
            return None
        if stamp is not None and stamp.key == digest_json(inputs):
            # Some of the output is gone. A stage may take what is left, of the right settings, for its own.
            remove_folder(path) if path.is_dir() else self.own.remove(output)
        with self.own.writing(output):
            return self._run(name, action, path, inputs)

    def _run(self, name: str, action: Callable[[Path], object], path: Path, inputs: Mapping[str, Any]) -> str:
        say(f"{name} ...")
        begin = time.monotonic()
        action(path)
        seconds = time.monotonic() - begin
        stamp = save_stamp(self._stamp_path(name), stage=name, inputs=inputs, output=path, seconds=seconds)
        self._record(Step(name=name, outcome="done", seconds=seconds), stamp)
        return stamp.output_digest

    def _record(self, step: Step, stamp: StageRecord) -> None:
        self.steps.append(step)
        self.stamps[step.name] = stamp
        say(step.render())

    def reuse(self, variant: str, twin: str, *, stages: Sequence[str]) -> None:
        """Note that ``variant`` keeps the same as ``twin``, and forget its ``stages`` from an earlier, other plan."""
        step = Step(name=variant, outcome="reused", detail=f"keeps the same as {twin}; nothing is done twice")
        self.steps.append(step)
        say(step.render())
        for stage in stages if self.own is not None else ():
            self._stamp_path(f"{variant}.{stage}").unlink(missing_ok=True)

    def _stamp_path(self, name: str) -> Path:
        return self.folder / STAMPS / f"{name}.json"


def _why(stamp: StageRecord | None, inputs: Mapping[str, Any], path: Path) -> str:
    """Say why a stage is not skipped."""
    if stamp is None:
        return "not done yet"
    before = dict(stamp.inputs)
    changed = sorted(key for key in {*before, *inputs} if before.get(key) != inputs.get(key))
    if changed:
        return f"changed: {', '.join(changed)}"
    return "its output is not what it left" if listing(path) else "its output is gone"


def package_version() -> str:
    """Return the version of prune2vec; ``"unknown"`` when it runs from a folder without having been installed."""
    try:
        return version("prune2vec")
    except PackageNotFoundError:
        return "unknown"
