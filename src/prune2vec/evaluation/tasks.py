"""MTEB task names: presets, single tasks, proxy folders of a mirror; and the prompts that a task gets."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from prune2vec.errors import EvaluationError, did_you_mean, import_extra
from prune2vec.evaluation.task_presets import PINNED, PRESETS, Task
from prune2vec.models.text_settings import PromptTemplate

PROXY = "-proxy"
_ASYMMETRIC = {"Retrieval", "InstructionRetrieval"}
_WITH_QUERIES = {*_ASYMMETRIC, "Reranking", "InstructionReranking"}


def resolve_tasks(names: str | Sequence[str], mirror: Path | None = None) -> tuple[Task, ...]:
    """Return the tasks behind ``names``: mteb tasks, presets, or ``NAME-proxy`` folders of the mirror, each once.

    Args:
        names: Names, or one string with commas between them.
        mirror: Folder of local copies.

    Raises:
        EvaluationError: A name is unknown (the closest one is named), two of the lists differ about a task, or the mirror does
            not exist.
        MissingExtra: mteb is not installed.
    """
    import_extra("mteb")
    if mirror is not None and not mirror.is_dir():
        raise EvaluationError(f"no mirror folder {mirror}; expected a folder with one folder per task")
    split = names.split(",") if isinstance(names, str) else names
    wanted = [name.strip() for name in split if name.strip()]
    if not wanted:
        raise EvaluationError(f"no task is named; give task names or a preset ({', '.join(PRESETS)})")
    found: dict[str, Task] = {}
    for name in wanted:
        for task in PRESETS[name] if name in PRESETS else (_one_task(name, mirror),):
            if found.setdefault(task.label, task) != task:
                raise EvaluationError(
                    f"{name} evaluates {task.label} in another way than a name before it does; evaluate them one after the other"
                )
    return tuple(found.values())


def _one_task(name: str, mirror: Path | None) -> Task:
    if name in PINNED:
        return PINNED[name]
    known = mteb_task_names()
    if name in known:
        return _from_mteb(name)
    base = name.removesuffix(PROXY)
    proxies = _proxy_folders(mirror)
    if base != name and base in known and name in proxies:
        task = PINNED.get(base) or _from_mteb(base)
        return Task(**{**vars(task), "folder": name})
    raise EvaluationError(f"no task is called {name!r}{did_you_mean(name, _near(name, [*known, *proxies, *PRESETS]))}")


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Return the names worth suggesting: mteb has over a thousand, most of them nowhere near ``name``."""
    known = list(known)
    if difflib.get_close_matches(name, PINNED, n=1, cutoff=0.8):
        return list(PINNED)
    return [other for other in known if other[:3].lower() == name[:3].lower()] or list(PRESETS)


def _proxy_folders(mirror: Path | None) -> list[str]:
    return sorted(path.name for path in mirror.iterdir() if path.name.endswith(PROXY)) if mirror else []


@functools.cache
def mteb_task_names() -> frozenset[str]:
    """Return the names of all text tasks that mteb knows.

    Raises:
        MissingExtra: mteb is not installed.
    """
    mteb = import_extra("mteb")
    return frozenset(task.metadata.name for task in mteb.get_tasks(modalities=["text"], exclude_superseded=False))


def _from_mteb(name: str) -> Task:
    """Return a task outside the presets as mteb defines it: all its splits and subsets, and its own instruction."""
    import mteb

    task = mteb.get_task(name)
    prompt = task.metadata.prompt
    text = prompt.get("query", "") if isinstance(prompt, dict) else prompt
    return Task(
        name=name,
        type=task.metadata.type,
        main_score=task.metadata.main_score,
        instruction=text or getattr(task, "abstask_prompt", "") or "",
        splits=(),
    )


def task_prompts(task: Task, text_format: PromptTemplate) -> dict[str, str]:
    """Return a task's instruction for its texts: ``{"query", "document"}`` where it has both, else ``{"text"}``.

    It stands before the queries of a retrieval task (its documents get none), and
    before every text of any other task, documents to be reranked included (L3Prune, appendix; llm2vec's evaluation).

    Args:
        task: The task.
        text_format: The encoder's frame around texts, which says how an instruction is joined on.
    """
    instructed = text_format.before(task.instruction, task.separator)
    if task.type not in _WITH_QUERIES:
        return {"text": instructed}
    return {"query": instructed, "document": text_format.before() if task.type in _ASYMMETRIC else instructed}
