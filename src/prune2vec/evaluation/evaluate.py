"""The verb: evaluate an encoder on own data and MTEB tasks, weigh and time it, and write ``results.json``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prune2vec.data.beir import Retrieval
from prune2vec.errors import DataError, EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, load_for_evaluation, with_documents_by
from prune2vec.evaluation.mteb_runner import TaskUnavailable, run_task, task_data
from prune2vec.evaluation.results import OwnScores, Results, TaskScore
from prune2vec.evaluation.retrieval import (
    describe_retrieval,
    evaluate_bm25,
    evaluate_retrieval,
    load_retrieval,
    sample_retrieval,
)
from prune2vec.evaluation.speed import measure_cost
from prune2vec.evaluation.tasks import Task, resolve_tasks, task_prompts
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.machine import describe
from prune2vec.paths import check_outside
from prune2vec.progress import progress, say
from prune2vec.public import public
from prune2vec.settings import read_as


@public("evaluate", "encoder", "data", "mirror", "output", "documents_by", settings=EvaluateSettings)
def evaluate_encoder(
    encoder: Path | str,
    *,
    data: Path | str | None = None,
    tasks: str | Sequence[str] | None = None,
    mirror: Path | str | None = None,
    output: Path | str | None = None,
    documents_by: Path | str | None = None,
    settings: EvaluateSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Results:
    """Evaluate an encoder on the user's own data, on MTEB tasks, or on both.

    With ``output``, every finished part is kept beside it until all are done: a killed evaluation, started again with
    the same arguments, resumes where it stopped. Nothing is taken over when the encoder or the data have changed.

    Args:
        encoder: A folder made by prune or train, another sentence-transformers folder, or a hub id.
        data: Held-out triplets (file, folder or hub dataset), or a BEIR folder.
        tasks: MTEB task names and presets (``"mteb-15"``).
        mirror: Folder of local copies of the tasks' data, one folder per task; nothing is fetched then.
        output: The file to write, as a rule ``results.json``.
        documents_by: Another encoder, for the documents alone: that whose vectors the evaluated one, for the queries, learnt.
            Of tasks only those that tell the two apart ask it.
        settings: How to evaluate.
        **overrides: Single settings by name, in place of those in ``settings``.

    Raises:
        CheckpointError: The folder is not an encoder.
        EvaluationError: There is nothing to evaluate on, a task is unknown, none of the tasks can be evaluated, or the vectors of two
            encoders cannot be compared.
        ConfigError: A setting is unknown or does not fit.
        DataError: The data cannot be read.
        MissingExtra: ``mteb`` is not installed, and there are tasks.
    """
    chosen = EvaluateSettings.chosen(settings, overrides, where="evaluate")
    return evaluate_and_keep(
        encoder, data=data, tasks=tasks, mirror=mirror, output=output, documents_by=documents_by, settings=chosen
    )[0]


def evaluate_and_keep(
    encoder: Path | str,
    *,
    data: Path | str | None,
    tasks: str | Sequence[str] | None,
    mirror: Path | str | None,
    output: Path | str | None,
    settings: EvaluateSettings,
    documents_by: Path | str | None = None,
) -> tuple[Results, LoadedEncoder]:
    """Do what ``evaluate_encoder`` does; return the encoder in memory too, for whoever goes on with it."""
    if data is None and tasks is None:
        raise EvaluationError("nothing to evaluate; give data (held-out triplets or a BEIR folder), tasks, or both")
    file = Results.target(output) if output is not None else None
    if file is not None:
        check_outside(file, encoder)
    mirror = Path(mirror) if mirror is not None else None
    chosen = resolve_tasks(tasks, mirror) if tasks is not None else ()
    retrieval, note = sample_retrieval(load_retrieval(data, settings), settings) if data is not None else (None, "")
    seconds: dict[str, float] = {}
    with _timed(seconds, "load"):
        loaded = load_for_evaluation(encoder, settings, stock=bool(chosen))
        if documents_by is not None:
            loaded = with_documents_by(loaded, documents_by, settings)
    parts = Parts(file, loaded, settings)
    own: dict[str, Any] = {}
    if retrieval is not None:
        with _timed(seconds, "retrieval"):
            described = {**describe_retrieval(loaded, retrieval, source=str(data)), "sample": note}
            key = {"part": "own data", "digest": described["digest"]}
            own = {"data": described, **parts.get(key, lambda: _own_scores(loaded, retrieval, settings), OwnScores)}
    with _timed(seconds, "tasks"):
        scores, missing = _all_tasks(loaded, chosen, settings, parts, mirror) if chosen else ([], {})
    if chosen and not scores and not own:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(missing.items())[:3])
        more = " ..." if len(missing) > 3 else ""
        raise EvaluationError(f"none of the {len(chosen)} tasks can be evaluated: {reasons}{more}")
    with _timed(seconds, "speed"):
        texts = (list(retrieval.queries.values()), list(retrieval.corpus.values())) if retrieval else None
        speed, memory = measure_cost(loaded, texts, source=str(data), settings=settings)
    results = Results(
        encoder=loaded.describe(),
        size=loaded.size(),
        memory=memory,
        speed=speed,
        retrieval=own,
        tasks=tuple(scores),
        missing=missing,
        settings=settings.model_dump(mode="json"),
        environment=describe(loaded.model.device),
        seconds=seconds,
    )
    if file is not None:
        results.save(file)
        parts.remove()
    return results, loaded


def _own_scores(encoder: LoadedEncoder, retrieval: Retrieval, settings: EvaluateSettings) -> dict[str, Any]:
    found = evaluate_retrieval(encoder, retrieval, settings)
    return {**found, "bm25": evaluate_bm25(retrieval, settings)} if settings.bm25 else found


def _all_tasks(
    encoder: LoadedEncoder, tasks: Sequence[Task], settings: EvaluateSettings, parts: Parts, mirror: Path | None
) -> tuple[list[TaskScore], dict[str, str]]:
    """Return the scores of the tasks that can be evaluated, and the reasons for the others."""
    scores: list[TaskScore] = []
    missing: dict[str, str] = {}
    own = [name for name, text in encoder.model.prompts.items() if text]
    if own and settings.instruction == "mteb":
        say(f"the tasks' instructions stand in place of the encoder's own prompts ({', '.join(own)})")
    with progress("MTEB tasks", len(tasks)) as advance:
        for task in tasks:
            try:
                score = _one_score(encoder, task, settings, parts, mirror)
                scores.append(score)
                say(f"{score.name}: {score.main_score} {score.score:.4f} ({score.seconds:.0f} s)")
            except TaskUnavailable as error:
                missing[task.name] = str(error)
                say(f"{task.name}: missing, {error}")
            advance(1)
    return scores, missing


def _one_score(encoder: LoadedEncoder, task: Task, settings: EvaluateSettings, parts: Parts, mirror: Path | None) -> TaskScore:
    data = task_data(task, mirror)
    prompts = task_prompts(task, encoder.text_format) if settings.instruction == "mteb" else None
    key = {"part": "task", "task": asdict(task), "prompts": prompts, "data": data}
    score = parts.get(key, lambda: asdict(run_task(encoder, task, data=data, prompts=prompts, settings=settings)), TaskScore)
    return read_as(TaskScore, score)


class Parts:
    """A hidden folder beside the output that holds finished parts until the whole is written, so that a killed run resumes.

    A part is found again only for the same encoder (by digest), data, settings and library versions. Without an output
    nothing is kept.
    """

    def __init__(self, output: Path | None, encoder: LoadedEncoder, settings: EvaluateSettings) -> None:
        self._folder = output.parent / f".{output.name}.parts" if output is not None else None
        how = settings.model_dump(
            mode="json", include={"batch_size", "max_length", "seed", "bm25", "max_queries", "max_documents"}
        )
        by = {"documents_by": encoder.documents_by.digest} if encoder.documents_by is not None else {}
        made = {"encoder": encoder.digest, **by, "dtype": encoder.dtype, "device": encoder.model.device.type}
        self._base = {**how, **made, "versions": describe()["versions"]}

    def get(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]], kind: Any = dict[str, Any]) -> dict[str, Any]:
        """Return the part stored under ``key``, a record of ``kind``, or compute and store it."""
        if self._folder is None:
            return compute()
        file = self._folder / f"{digest_json({**self._base, **key})}.json"
        if file.is_file():
            try:
                value = read_json(file)
                read_as(kind, value)
                return dict(value)
            except (DataError, ValueError) as error:
                say(f"{file} cannot be read ({error}); doing that part again")
        value = compute()
        write_json(file, value)
        return value

    def remove(self) -> None:
        """Throw all parts away."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin
