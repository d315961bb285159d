from typing import Any

from prune2vec.data.triplet import Triplet
from prune2vec.models.prepared_text import PreparedText, prepare_text
from prune2vec.models.text_settings import TextSettings
from prune2vec.profiling.token_groups import distinct_rows, tokenise_groups
from tests.tiny import tiny_tokenizer


def triplet(anchor: str, *negatives: str) -> Triplet:
    return Triplet(anchor=anchor, positive=f"{anchor} yes", negatives=negatives)


def prepared(**settings: Any) -> PreparedText:
    return prepare_text(TextSettings(max_length=32, **settings), tiny_tokenizer(), context=256)


def test_roles_stay_apart() -> None:
    tokenizer = tiny_tokenizer()
    rows = [triplet("quick", "n1", "n2"), triplet("brown"), triplet("fox", "n3")]
    (group,) = tokenise_groups([rows], prepared())

    def texts(part: object) -> list[str]:
        return [tokenizer.decode(row.ids) for row in part]  # type: ignore[attr-defined]

    assert texts(group.queries) == ["quick", "brown", "fox"]
    assert texts(group.positives) == ["quick yes", "brown yes", "fox yes"]
    assert texts(group.negatives) == ["n1", "n2", "n3"]


def test_instruction_stands_before_queries_only() -> None:
    tokenizer = tiny_tokenizer()
    (group,) = tokenise_groups([[triplet("quick", "no")]], prepared(instruction="find"))
    assert tokenizer.decode(group.queries[0].ids) == "find\nquick"
    assert tokenizer.decode(group.positives[0].ids) == "quick yes"


def test_equal_texts_count_once() -> None:
    rows = [triplet("quick", "same"), triplet("brown", "same")]
    groups = tokenise_groups([rows], prepared())
    assert len(distinct_rows(groups)) == 5
