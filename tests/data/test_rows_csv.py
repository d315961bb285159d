"""CSV and TSV."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune2vec.data.rows import read_csv
from prune2vec.errors import DataError


def test_quoted_fields_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('query, positive\r\n"a,\nb","say ""hi"""\r\n\r\nc,d\r\n', encoding="utf-8", newline="")
    assert [(row.where, row.number, row.values) for row in read_csv(path)] == [
        (f"{path}:2", 0, {"query": "a,\nb", "positive": 'say "hi"'}),
        (f"{path}:5", 1, {"query": "c", "positive": "d"}),
    ]


def test_tabs_separate_tsv_also_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"query\tpositive\na,b\tc\n"))
    assert [row.values for row in read_csv(path)] == [{"query": "a,b", "positive": "c"}]


def test_wrong_number_of_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("query,positive\na,b\na,b,c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:3: 3 fields, but the header has 2: query, positive"):
        list(read_csv(path))


def test_open_quote_names_the_line_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('query,positive\na,b\n"c,d\ne,f\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:3: unexpected end of data; is a quote left open"):
        list(read_csv(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)] * 2), min_size=1
    )
)
def test_what_csv_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("query", "positive"), *rows])
    assert [tuple(row.values.values()) for row in read_csv(path)] == rows


def test_a_header_alone_and_one_name_twice_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("query,positive\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv: no rows, only the columns query, positive"):
        list(read_csv(path))
    path.write_text("text,id,text\na,b,c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:1: two columns are called 'text'"):
        list(read_csv(path))
