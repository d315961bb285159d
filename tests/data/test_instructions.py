"""Instructions of the E5 set."""

from __future__ import annotations

import pytest

from prune2vec.data.instructions import E5_DATASETS, Instructions
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError

FOURTEEN = [
    "allnli",
    "dureader",
    "eli5_question_answer",
    "fever",
    "hotpot_qa",
    "miracl",
    "mrtydi",
    "msmarco_passage",
    "msmarco_document",
    "nq",
    "quora_duplicates",
    "squad",
    "t2ranking",
    "trivia_qa",
]
SIMILAR = "Retrieve semantically similar text"
ENTAILED = "Given a premise, retrieve a hypothesis that is entailed by the premise"
EQUIVALENT = "Given a question, retrieve questions that are semantically equivalent to the given question"
SAME = "Find questions that have the same meaning as the input question"


def _row(dataset: str, line: int) -> Triplet:
    return Triplet(anchor="a", positive="p", dataset=dataset, line=line)


def test_the_table_has_the_fourteen_files() -> None:
    assert sorted(E5_DATASETS) == sorted(FOURTEEN)


@pytest.mark.parametrize(
    ("dataset", "line", "query", "document"),
    [
        ("allnli", 0, ENTAILED, ""),
        ("allnli", 1, SIMILAR, SIMILAR),
        ("quora_duplicates", 4, EQUIVALENT, EQUIVALENT),
        ("quora_duplicates", 5, SAME, SAME),
        ("squad", 1, "Retrieve Wikipedia passages that answer the question", ""),
    ],
)
def test_even_and_odd_rows_and_symmetric_sets(dataset: str, line: int, query: str, document: str) -> None:
    assert Instructions.parse("e5", None).for_triplet(_row(dataset, line)) == (query, document)
    assert Instructions.parse("e5", "both").for_triplet(_row(dataset, line)) == (query, document)
    assert Instructions.parse("E5", "paper").for_triplet(_row(dataset, line)) == (query, "")


@pytest.mark.parametrize("text", ["none", "None", "", " "])
def test_none_adds_nothing(text: str) -> None:
    instructions = Instructions.parse(text, None)
    assert instructions.for_triplet(_row("squad", 0)) == ("", "")


def test_a_literal_goes_on_the_query_and_on_both_sides_when_asked() -> None:
    assert Instructions.parse("Find the body", None).for_triplet(_row("x", 1)) == ("Find the body", "")
    assert Instructions.parse("Find the body", "paper").for_triplet(_row("x", 1)) == ("Find the body", "")
    assert Instructions.parse("Find the body", "both").for_triplet(_row("x", 1)) == ("Find the body", "Find the body")


def test_unknown_names_get_the_close_match() -> None:
    with pytest.raises(ConfigError, match="no E5 instruction for data set 'squadd'; did you mean 'squad'"):
        Instructions.parse("e5", None).for_triplet(_row("squadd", 0))
    with pytest.raises(ConfigError, match="no symmetric setting is called 'boht'; did you mean 'both'"):
        Instructions.parse("e5", "boht")


@pytest.mark.parametrize("name", ["effir", " EffiR "])
def test_effirs_has_a_name_and_its_own_separator(name: str) -> None:
    found = Instructions.parse(name, "both")
    query, document = found.for_triplet(_row("anything", 3))
    assert f"{query}{found.separator}" == "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"
    assert document == ""


@pytest.mark.parametrize("other", ["none", "e5", "", "Find the body"])
def test_all_others_leave_the_separator_to_the_text_format(other: str) -> None:
    assert Instructions.parse(other).separator is None
