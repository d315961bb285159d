"""Instructions in front of texts: none, one for all, EffiR's, or the public E5 set's own for each data set (ALGORITHMS D)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, did_you_mean

Symmetric = Literal["paper", "both"]


@dataclass(frozen=True)
class E5Dataset:
    """One file of the public E5 set: the instruction of rows 0, 2, 4, ... and that of the others, where it is another one.

    Where query and document are of the same kind, rows are symmetric and both get the instruction.
    """

    even: str
    odd: str = ""
    symmetric_even: bool = False
    symmetric_odd: bool = False


_CHINESE = "Given a Chinese search query, retrieve web passages that answer the question"
_WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"

E5_DATASETS: Mapping[str, E5Dataset] = {
    "allnli": E5Dataset(
        even="Given a premise, retrieve a hypothesis that is entailed by the premise",
        odd="Retrieve semantically similar text",
        symmetric_odd=True,
    ),
    "dureader": E5Dataset(_CHINESE),
    "eli5_question_answer": E5Dataset("Provided a user question, retrieve the highest voted answers on Reddit ELI5 forum"),
    "fever": E5Dataset("Given a claim, retrieve documents that support or refute the claim"),
    "hotpot_qa": E5Dataset("Given a multi-hop question, retrieve documents that can help answer the question"),
    "miracl": E5Dataset(_WIKIPEDIA),
    "mrtydi": E5Dataset(_WIKIPEDIA),
    "msmarco_passage": E5Dataset("Given a web search query, retrieve relevant passages that answer the query"),
    "msmarco_document": E5Dataset("Given a web search query, retrieve relevant documents that answer the query"),
    "nq": E5Dataset(_WIKIPEDIA),
    "quora_duplicates": E5Dataset(
        even="Given a question, retrieve questions that are semantically equivalent to the given question",
        odd="Find questions that have the same meaning as the input question",
        symmetric_even=True,
        symmetric_odd=True,
    ),
    "squad": E5Dataset("Retrieve Wikipedia passages that answer the question"),
    "t2ranking": E5Dataset(_CHINESE),
    "trivia_qa": E5Dataset("Retrieve Wikipedia passages that answer the question"),
}

E5_TEXTS = tuple(dict.fromkeys(text for dataset in E5_DATASETS.values() for text in (dataset.even, dataset.odd) if text))
"""Every instruction of the set, once."""

_EFFIR_TEXT = "<instruct>Given a query, retrieve relevant passages that answer the query."


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Which instruction stands before the query and before the documents of a triplet.

    Attributes:
        kind: ``"none"``, ``"e5"`` (by data set and row) or ``"literal"`` (``text`` for all).
        text: The literal instruction.
        both_sides: Whether documents of symmetric rows (with a literal: all documents) get the instruction as well.
        separator: What stands between this instruction and a text; None leaves that to the text format.
    """

    kind: Literal["none", "e5", "literal"] = "none"
    text: str = ""
    both_sides: bool = False
    separator: str | None = None

    @classmethod
    def parse(cls, instruction: str, symmetric: str | None = None) -> Self:
        """Read the setting.

        Args:
            instruction: ``"none"``, ``"e5"``, ``"effir"``, or the instruction itself. With EffiR's queries read
                ``<instruct>Given a query, ... the query.\\n<query>`` and then the query (arXiv 2512.20612).
            symmetric: ``"both"`` puts the instruction on both sides of symmetric rows, as the E5 set intends (odd rows of
                allnli, all of quora_duplicates); ``"paper"`` on the query only, as the released L3Prune code in effect does.
                None means ``"both"`` for e5, and ``"paper"`` for a literal instruction, which says nothing about symmetry;
                effir never stands before documents.

        Raises:
            ConfigError: ``symmetric`` is something else.
        """
        if symmetric is not None and symmetric not in get_args(Symmetric):
            raise ConfigError(f"no symmetric setting is called {symmetric!r}{did_you_mean(symmetric, get_args(Symmetric))}")
        word = instruction.strip().lower()
        if word in ("", "none"):
            return cls()
        if word == "e5":
            return cls(kind="e5", both_sides=symmetric != "paper")
        if word == "effir":
            return cls(kind="literal", text=_EFFIR_TEXT, separator="\n<query>")
        return cls(kind="literal", text=instruction, both_sides=symmetric == "both")

    def for_triplet(self, triplet: Triplet) -> tuple[str, str]:
        """Return the instructions ``(of the query, of the documents)``; an empty string means none."""
        if self.kind != "e5":
            return self.text, self.text if self.both_sides else ""
        if triplet.dataset not in E5_DATASETS:
            close = did_you_mean(triplet.dataset, E5_DATASETS)
            raise ConfigError(
                f"no E5 instruction for data set {triplet.dataset!r}{close}; or set none, or your own instruction"
            )
        record = E5_DATASETS[triplet.dataset]
        query, symmetric = record.even, record.symmetric_even
        if triplet.line % 2:
            query, symmetric = record.odd or record.even, record.symmetric_odd
        return query, query if symmetric and self.both_sides else ""
