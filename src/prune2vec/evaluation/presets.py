"""Task lists with a name. ``mteb-15`` is the one that the L3Prune paper reports (arXiv 2410.14578, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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
        folder: Name of its folder in a mirror, and the name under which it is reported.
    """

    name: str
    type: str
    main_score: str
    instruction: str
    splits: tuple[str, ...] = ("test",)
    subsets: tuple[str, ...] = ()
    folder: str = ""

    @property
    def label(self) -> str:
        """The name under which it is reported."""
        return self.folder or self.name


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

PRESETS: Mapping[str, tuple[Task, ...]] = MappingProxyType({"mteb-15": _MTEB_15})
"""Task lists by name."""

PINNED: Mapping[str, Task] = MappingProxyType({task.name: task for tasks in PRESETS.values() for task in tasks})
"""Every task of a preset by its mteb name; asked for by name, it is evaluated on the same split and subset."""
