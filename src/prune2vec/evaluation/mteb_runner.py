"""Running MTEB tasks through ``mteb``, from the hub or from local copies."""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.encoding.engine import Engine
from prune2vec.errors import EncodingError, EvaluationError, reason_of
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import SIDES, LoadedEncoder, as_stock, engine_under, side_prompt
from prune2vec.evaluation.item_scores import TaskItems
from prune2vec.evaluation.results import TaskScore
from prune2vec.evaluation.retrieval import sample_task
from prune2vec.evaluation.tasks import Task
from prune2vec.files import digest_tree

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.models import SentenceTransformerEncoderWrapper


class TaskUnavailable(EvaluationError):
    """The data of a task is not here and cannot be fetched."""


def task_data(task: Task, mirror: Path | None) -> dict[str, str]:
    """Return where the data of a task comes from: ``{"path", "digest"}`` in a mirror, else ``{"path", "revision"}``."""
    if mirror is None:
        import mteb

        dataset = mteb.get_task(task.name).metadata.dataset
        return {"path": str(dataset["path"]), "revision": str(dataset["revision"])}
    folder = mirror / task.name
    if not folder.is_dir():
        raise TaskUnavailable(f"not in the mirror {mirror}")
    return {"path": str(folder), "digest": digest_tree(folder)}


def run_task(
    encoder: LoadedEncoder,
    task: Task,
    *,
    data: Mapping[str, str],
    prompts: Mapping[str, str] | None,
    settings: EvaluateSettings,
) -> TaskScore:
    """Evaluate one task.

    Args:
        encoder: Whose vectors are scored.
        task: What to evaluate.
        data: From ``task_data``.
        prompts: From ``tasks.task_prompts``, in place of the encoder's own; None leaves these, by mteb's order of look-ups:
            under the task's name, its type, and ``query`` or ``document``.
        settings: How much of a retrieval task is used, which the name of the score tells; and the size of a batch.

    Raises:
        TaskUnavailable: The hub cannot be reached, or does not have the data.
        EvaluationError: The local copy is broken, or the task cannot be scored.
    """
    begin = time.perf_counter()
    with read_task(task, data) as loaded, tempfile.TemporaryDirectory(prefix="prune2vec-predictions-") as folder:
        note = sample_task(loaded, settings)
        watched = TaskItems(loaded, Path(folder))
        with watched.watching():
            result, used = _evaluate(encoder, loaded, prompts, settings.batch_size, watched.folder)
        rows = [{"split": split, **row} for split, of_split in result.scores.items() for row in of_split]
        scores = [float(row["main_score"]) for row in rows]
        if not scores or not all(map(math.isfinite, scores)):
            raise EvaluationError(
                f"{task.name} gave no finite {task.main_score}; are all right scores, or all embeddings, the same?"
            )
        items = watched.of(rows, task.main_score)
    return TaskScore(
        name=f"{task.name} {note}".rstrip(),
        type=task.type,
        main_score=task.main_score,
        score=statistics.fmean(scores),
        parts=tuple({"split": row["split"], "subset": row["hf_subset"], "score": float(row["main_score"])} for row in rows),
        metrics={key: float(one) for key, one in rows[0].items() if isinstance(one, int | float) and math.isfinite(one)},
        prompts=used,
        data=dict(data),
        seconds=time.perf_counter() - begin,
        sample=note,
        items=items,
    )


@contextmanager
def read_task(task: Task, data: Mapping[str, str]) -> Iterator[AbsTask]:
    """Yield mteb's task with its data, which ``task_data`` says where to find.

    Raises:
        TaskUnavailable: The hub cannot be reached, or does not have the data.
        EvaluationError: The local copy is broken.
    """
    with _quiet_libraries(), _own_datasets_cache() if "digest" in data else nullcontext():
        loaded = _load_task(task, data)
        try:
            yield loaded
        finally:
            loaded.unload_data()


def _load_task(task: Task, data: Mapping[str, str]) -> AbsTask:
    import mteb
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    loaded = mteb.get_task(task.name, eval_splits=list(task.splits) or None, hf_subsets=list(task.subsets) or None)
    if "digest" in data:
        local = {"path": data["path"], "revision": "local"}
        loaded.metadata = loaded.metadata.model_copy(update={"dataset": local})
    try:
        loaded.load_data()
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        # It says only that there is a cause.
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        reason = reason_of(cause or error)
        if "digest" in data:
            raise EvaluationError(f"{data['path']}: not a copy of {task.name} that mteb can read: {reason}") from error
        raise TaskUnavailable(f"cannot fetch {data['path']}: {reason}") from error
    return loaded


def _evaluate(
    encoder: LoadedEncoder, task: AbsTask, prompts: Mapping[str, str] | None, batch_size: int, predictions: Path | None
) -> tuple[Any, dict[str, str]]:
    import mteb

    named: dict[str, str] | None = None
    if prompts is not None:
        # The wrapper looks a prompt up under the task's name first, then under query or document.
        named = {"query": prompts.get("query", ""), "document": prompts.get("document", "")}
        if "text" in prompts:
            named[task.metadata.name] = prompts["text"]
    used: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            wrapper = stack.enter_context(_wrapped(encoder, named, used))
            if encoder.documents_by is not None:
                by_query, by_document = wrapper.encode, stack.enter_context(_wrapped(encoder.documents_by, named, used)).encode

                def encode(inputs: Any, *, prompt_type: Any = None, **options: Any) -> Any:
                    of_document = prompt_type is not None and prompt_type.value == "document"
                    return (by_document if of_document else by_query)(inputs, prompt_type=prompt_type, **options)

                wrapper.encode = encode  # type: ignore[method-assign]
            # No result cache: it goes by the model's name, and another encoder may stand under the same path.
            results = mteb.evaluate(
                wrapper,
                task,
                encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                prediction_folder=predictions,
            )
    except (EncodingError, ValueError) as error:
        raise EvaluationError(f"{task.metadata.name} cannot be scored: {reason_of(error)}") from error
    return results.task_results[0], used


@contextmanager
def _wrapped(
    encoder: LoadedEncoder, named: dict[str, str] | None, used: dict[str, str]
) -> Iterator[SentenceTransformerEncoderWrapper]:
    """Yield mteb's wrapper of an encoder, whose ``encode`` is ours; ``named`` prompts stand in place of its own meanwhile."""
    from mteb.models import SentenceTransformerEncoderWrapper

    model = as_stock(encoder.model)
    own = model.prompts
    if named is not None:
        # With prompts of its own in place the wrapper would replace them for good, and warn.
        model.prompts = {}
    try:
        wrapper = SentenceTransformerEncoderWrapper(model, model_prompts=named)
        engine = engine_under(encoder.engine, (own if named is None else named).values())
        # Of the wrapper's methods this one alone is another; the others say what the model is and how vectors are compared.
        wrapper.encode = _encoding(wrapper, engine, used)  # type: ignore[method-assign]
        yield wrapper
    finally:
        model.prompts = own


def _encoding(wrapper: SentenceTransformerEncoderWrapper, engine: Engine | None, used: dict[str, str]) -> Callable[..., Any]:
    """Return ``encode`` of mteb's ``EncoderProtocol``: the engine's, if there is one, under the prompt that the wrapper finds.

    What stands before the texts is noted in ``used``, by ``query``, ``document`` or, for neither, ``text``.
    """
    by_wrapper = wrapper.encode
    prompted: dict[str, Engine] = {}

    def encode(inputs: Iterable[dict[str, list[str]]], *, task_metadata: Any, prompt_type: Any = None, **options: Any) -> Any:
        side = prompt_type.value if prompt_type is not None else None
        name = wrapper.get_prompt_name(task_metadata, prompt_type)
        found = (wrapper.model_prompts or {}).get(name or "")
        # Where mteb finds none, sentence-transformers takes the encoder's own for that side, or its default.
        prompt = found if found is not None else side_prompt(wrapper.model, SIDES.get(side))
        used[side or "text"] = prompt
        if engine is None:
            return by_wrapper(inputs, task_metadata=task_metadata, prompt_type=prompt_type, **options)  # type: ignore[arg-type]
        if prompt not in prompted:
            prompted[prompt] = engine.with_prompt(prompt)
        # How many texts a batch has makes no difference.
        return prompted[prompt].encode([text for batch in inputs for text in batch["text"]])

    return encode


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the bars, log lines and known warnings of mteb and what it stands on off the terminal."""
    import datasets

    logger = logging.getLogger("mteb")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"The task '.*' is superseded by")
            # An encoder's own prompts have names that are no task's, and need not be for queries and documents.
            for words in ("Task name .* is not valid", "Some prompts are not", "SentenceTransformers that use prompts"):
                warnings.filterwarnings("ignore", message=words)
            for category in (FutureWarning, DeprecationWarning, RuntimeWarning):
                warnings.filterwarnings("ignore", category=category, module=r"mteb\.")
            # mteb stops its classifiers after 100 steps, and asks for the precision of classes nobody predicted; a score
            # that comes out as NaN is refused below, whatever they say.
            warnings.filterwarnings("ignore", module=r"sklearn\.")
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _own_datasets_cache() -> Iterator[None]:
    """Give local copies a cache that ends with the task: ``datasets`` would not notice that a file has changed."""
    import datasets

    usual = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory(prefix="prune2vec-datasets-") as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = usual
