"""Task lists with a name: those that the papers report.

``mteb-15`` is L3Prune's (arXiv 2410.14578, section 4), ``beir-13`` EffiR's (arXiv 2512.20612): retrieval alone, with one
instruction for all queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prune2vec.data.instructions import Instructions


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
        separator: What stands between this instruction and a text; None is what the encoder's own format puts there.
    """

    name: str
    type: str
    main_score: str
    instruction: str
    splits: tuple[str, ...] = ("test",)
    subsets: tuple[str, ...] = ()
    folder: str = ""
    separator: str | None = None

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
