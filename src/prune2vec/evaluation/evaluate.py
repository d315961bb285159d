"""The verb: evaluate an encoder on own data and MTEB tasks, weigh and time it, and write ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune2vec.data.beir import Retrieval
from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, load_for_evaluation
from prune2vec.evaluation.mteb_runner import TaskUnavailable, run_task, task_data
from prune2vec.evaluation.mteb_splits import Clock, Parts, environment
from prune2vec.evaluation.own_data import describe_retrieval, evaluate_bm25, evaluate_retrieval, load_retrieval
from prune2vec.evaluation.results import Results, TaskScore
from prune2vec.evaluation.sampling import Sampling, sample_retrieval
from prune2vec.evaluation.speed import measure_cost
from prune2vec.evaluation.task_presets import Task
from prune2vec.evaluation.tasks import resolve_tasks, task_prompts
from prune2vec.paths import check_target
from prune2vec.progress import progress, say
from prune2vec.public import public


@public("evaluate", "encoder", "data", "mirror", "output", settings=EvaluateSettings)
def evaluate_encoder(
    encoder: Path | str,
    *,
    data: Path | str | None = None,
    tasks: str | Sequence[str] | None = None,
    mirror: Path | str | None = None,
    output: Path | str | None = None,
    settings: EvaluateSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Results:
    """Evaluate an encoder on the user's own data, on MTEB tasks, or on both.

    With ``output``, every finished part is kept beside it until all are done: a killed evaluation, started again with
    the same arguments, goes on where it stopped. Nothing is taken over when the encoder or the data have changed.

    Args:
        encoder: A folder made by prune or train, another sentence-transformers folder, or a hub id.
        data: Held-out triplets (file, folder or hub dataset), or a BEIR folder.
        tasks: MTEB task names and presets (``"mteb-15"``).
        mirror: Folder of local copies of the tasks' data, one folder per task; nothing is fetched then.
        output: Where to write ``results.json``: a file, or a folder for it.
        settings: How to evaluate.
        **overrides: Single settings by name, in place of those in ``settings``.

    Raises:
        CheckpointError: The folder is not an encoder.
        EvaluationError: A task is unknown, or none of the tasks can be evaluated.
        ConfigError: A setting is unknown or does not fit.
        DataError: The data cannot be read.
    """
    settings = EvaluateSettings.chosen(settings, overrides, where="evaluate")
    if data is None and tasks is None:
        raise EvaluationError("nothing to evaluate; give data (held-out triplets or a BEIR folder), tasks, or both")
    file = _output_file(output)
    mirror = Path(mirror) if mirror is not None else None
    chosen = resolve_tasks(tasks, mirror) if tasks is not None else ()
    retrieval, note = None, ""
    if data is not None:
        retrieval, note = sample_retrieval(load_retrieval(data, settings), Sampling.of(settings))
    clock = Clock()
    with clock("load"):
        loaded = load_for_evaluation(encoder, settings)
    job = _Job(loaded, settings, mirror, Parts(file, loaded, settings), clock)
    results = job.run(retrieval, chosen, source=str(data), sample=note)
    if file is not None:
        results.save(file)
        job.parts.remove()
    return results


def _output_file(output: Path | str | None) -> Path | None:
    if output is None:
        return None
    path = Path(output)
    return check_target(path if path.suffix == ".json" else path / "results.json", folder=False)


@dataclass(frozen=True)
class _Job:
    """One evaluation under way."""

    encoder: LoadedEncoder
    settings: EvaluateSettings
    mirror: Path | None
    parts: Parts
    clock: Clock

    def run(self, retrieval: Retrieval | None, tasks: Sequence[Task], *, source: str, sample: str) -> Results:
        own: dict[str, Any] = {}
        if retrieval is not None:
            with self.clock("retrieval"):
                own = self._own_data(retrieval, source, sample)
        with self.clock("tasks"):
            scores, missing = self._all_tasks(tasks)
        if tasks and not scores and not own:
            raise EvaluationError(f"none of the {len(tasks)} tasks can be evaluated: {_reasons(missing)}")
        with self.clock("speed"):
            texts = (list(retrieval.queries.values()), list(retrieval.corpus.values())) if retrieval else None
            speed, memory = measure_cost(self.encoder, texts, source=source, settings=self.settings)
        return Results(
            encoder=self.encoder.describe(),
            size=self.encoder.size(),
            memory=memory,
            speed=speed,
            retrieval=own,
            tasks=tuple(scores),
            missing=missing,
            settings=self.settings.model_dump(mode="json"),
            environment=environment(),
            seconds=self.clock.seconds,
        )

    def _own_data(self, retrieval: Retrieval, source: str, sample: str) -> dict[str, Any]:
        data = {**describe_retrieval(self.encoder, retrieval, source=source), "sample": sample}

        def compute() -> dict[str, Any]:
            found: dict[str, Any] = {"metrics": evaluate_retrieval(self.encoder, retrieval, self.settings)}
            if self.settings.bm25:
                found["bm25"] = evaluate_bm25(retrieval, self.settings)
            return found

        return {"data": data, **self.parts.get({"part": "own data", "digest": data["digest"]}, compute)}

    def _all_tasks(self, tasks: Sequence[Task]) -> tuple[list[TaskScore], dict[str, str]]:
        """Return the scores of the tasks that can be evaluated, and the reasons for the others."""
        scores: list[TaskScore] = []
        missing: dict[str, str] = {}
        own = [name for name, text in self.encoder.model.prompts.items() if text]
        if tasks and own and self.settings.instruction == "mteb":
            say(f"the tasks' instructions stand in place of the encoder's own prompts ({', '.join(own)})")
        with progress("MTEB tasks", len(tasks)) as advance:
            for task in tasks:
                try:
                    score = self._one_task(task)
                    scores.append(score)
                    say(f"{score.name}: {score.main_score} {score.score:.4f} ({score.seconds:.0f} s)")
                except TaskUnavailable as error:
                    missing[task.label] = str(error)
                    say(f"{task.label}: missing, {error}")
                advance(1)
        return scores, missing

    def _one_task(self, task: Task) -> TaskScore:
        data = task_data(task, self.mirror)
        encoder, settings = self.encoder, self.settings
        prompts = task_prompts(task, encoder.text_format) if settings.instruction == "mteb" else None
        key = {"part": "task", "task": asdict(task), "prompts": prompts, "data": data}

        def compute() -> dict[str, Any]:
            size, sampling = settings.batch_size, Sampling.of(settings)
            return asdict(run_task(encoder, task, data=data, prompts=prompts, batch_size=size, sampling=sampling))

        return TaskScore.from_json(self.parts.get(key, compute))


def _reasons(missing: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(missing.items())[:3]) + (" ..." if len(missing) > 3 else "")
