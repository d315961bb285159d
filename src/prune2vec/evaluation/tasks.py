"""MTEB tasks by name: single ones, and the lists that the papers report; and the prompts that a task gets.

``mteb-15`` is L3Prune's (arXiv 2410.14578, section 4), ``beir-13`` EffiR's (arXiv 2512.20612): retrieval alone, with one
instruction for all queries.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from prune2vec.data.instructions import Instructions
from prune2vec.errors import EvaluationError, did_you_mean, import_extra
from prune2vec.models.text_settings import PromptTemplate

_ASYMMETRIC = {"Retrieval", "InstructionRetrieval"}
_WITH_QUERIES = {*_ASYMMETRIC, "Reranking", "InstructionReranking"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One MTEB task, pinned to the part of it that counts.

    Attributes:
        name: What it is called in mteb.
        type: The kind of task in mteb: ``"Retrieval"``, ``"STS"``, ...
        main_score: The metric that counts.
        instruction: Instruction of the task in the papers' wording, without a separator at its end.
        splits: Splits to evaluate; empty means all that the task evaluates by itself.
        subsets: Subsets to evaluate; empty means all.
        separator: What stands between this instruction and a text; None is what the encoder's own format puts there.
    """

    name: str
    type: str
    main_score: str
    instruction: str
    splits: tuple[str, ...] = ("test",)
    subsets: tuple[str, ...] = ()
    separator: str | None = None


_STS = "Retrieve semantically similar text."


def _tasks(type: str, main_score: str, **instructions: str) -> list[Task]:
    return [Task(name=name, type=type, main_score=main_score, instruction=text) for name, text in instructions.items()]


_MTEB_15 = (
    *_tasks(
        "Retrieval",
        "ndcg_at_10",
        SciFact="Given a scientific claim, retrieve documents that support or refute the claim",
        ArguAna="Given a claim, find documents that refute the claim",
        NFCorpus="Given a question, retrieve relevant documents that best answer the question",
    ),
    *_tasks(
        "Reranking",
        "map_at_1000",
        StackOverflowDupQuestions="Retrieve duplicate questions from StackOverflow forum",
        SciDocsRR="Given a title of a scientific paper, retrieve the titles of other relevant papers",
    ),
    *_tasks(
        "Clustering",
        "v_measure",
        BiorxivClusteringS2S="Identify the main category of Biorxiv papers based on the titles",
        MedrxivClusteringS2S="Identify the main category of Medrxiv papers based on the titles",
        TwentyNewsgroupsClustering="Identify the topic or theme of the given news articles",
    ),
    *_tasks("PairClassification", "max_ap", SprintDuplicateQuestions="Retrieve duplicate questions from Sprint forum"),
    *_tasks(
        "Classification",
        "accuracy",
        Banking77Classification="Given a online banking query, find the corresponding intents",
        EmotionClassification="Classify the emotion expressed in the given Twitter message into one of the six emotions: "
        "anger, fear, joy, love, sadness, and surprise",
    ),
    Task(
        name="MassiveIntentClassification",
        type="Classification",
        main_score="accuracy",
        instruction="Given a user utterance as query, find the user intents",
        subsets=("en",),
    ),
    Task(name="STS17", type="STS", main_score="cosine_spearman", instruction=_STS, subsets=("en-en",)),
    Task(name="SICK-R", type="STS", main_score="cosine_spearman", instruction=_STS),
    Task(name="STSBenchmark", type="STS", main_score="cosine_spearman", instruction=_STS),
)

_BEIR_13_NAMES = (
    *("ArguAna", "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "NFCorpus", "NQ", "QuoraRetrieval"),
    *("SCIDOCS", "SciFact", "TRECCOVID", "Touche2020"),
)
_EFFIR = Instructions.parse("effir")
_BEIR_13 = tuple(
    Task(name=name, type="Retrieval", main_score="ndcg_at_10", instruction=_EFFIR.text, separator=_EFFIR.separator)
    for name in _BEIR_13_NAMES
)

PRESETS: Mapping[str, tuple[Task, ...]] = MappingProxyType({"mteb-15": _MTEB_15, "beir-13": _BEIR_13})
"""Task lists by name."""

PINNED: Mapping[str, Task] = MappingProxyType({task.name: task for task in _MTEB_15})
"""Tasks of mteb-15 by their mteb name; asked for by name, they are evaluated on the same split and subset, with the same
instruction. Those of beir-13 are not among them: their instruction belongs to the list, not to the task."""


def resolve_tasks(names: str | Sequence[str], mirror: Path | None = None) -> tuple[Task, ...]:
    """Return the tasks behind ``names``: mteb tasks or presets, each once.

    Args:
        names: Names, or one string with commas between them.
        mirror: Folder of local copies, which must exist.

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
        for task in PRESETS[name] if name in PRESETS else (_one_task(name),):
            if found.setdefault(task.name, task) != task:
                raise EvaluationError(
                    f"{name} evaluates {task.name} in another way than a name before it does; evaluate them one after the other"
                )
    return tuple(found.values())


def _one_task(name: str) -> Task:
    """Return a task as mteb-15 has it, or else as mteb defines it: all its splits and subsets, and its own instruction."""
    if name in PINNED:
        return PINNED[name]
    known = mteb_task_names()
    if name not in known:
        # mteb has over a thousand names, most of them nowhere near.
        near = [other for other in (*known, *PRESETS) if other[:3].lower() == name[:3].lower()] or list(PRESETS)
        if difflib.get_close_matches(name, PINNED, n=1, cutoff=0.8):
            near = list(PINNED)
        raise EvaluationError(f"no task is called {name!r}{did_you_mean(name, near)}")
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


@functools.cache
def mteb_task_names() -> frozenset[str]:
    """Return the names of all text tasks that mteb knows."""
    mteb = import_extra("mteb")
    return frozenset(task.metadata.name for task in mteb.get_tasks(modalities=["text"], exclude_superseded=False))


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
